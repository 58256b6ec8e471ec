"""Random streams depend on their arguments alone."""

import torch

from fedsam.seeds import stream, tensor_stream


def test_equal_arguments_give_equal_draws() -> None:
    assert stream(3, "cohort", 1).random() == stream(3, "cohort", 1).random()
    assert torch.equal(torch.rand(4, generator=tensor_stream(3, "x")), torch.rand(4, generator=tensor_stream(3, "x")))


def test_any_difference_gives_other_draws() -> None:
    streams = [stream(3, "cohort", 1), stream(4, "cohort", 1), stream(3, "batches", 1), stream(3, "cohort", 2), stream(3, "cohort", 1, 0)]
    assert len({s.random() for s in streams}) == len(streams)


def test_the_value_of_a_stream_never_changes() -> None:
    # Results published with one version must come out of the next.
    assert stream(0, "partition").integers(2**63) == 8883602324357596672
