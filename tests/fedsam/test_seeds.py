"""Random streams depend on their arguments alone."""

import random

import numpy as np
import pytest
import torch

from fedsam.seeds import kept_python_generator, seeded_globals, stream, tensor_stream


def test_equal_arguments_give_equal_draws() -> None:
    assert stream(3, "cohort", 1).random() == stream(3, "cohort", 1).random()
    assert torch.equal(torch.rand(4, generator=tensor_stream(3, "x")), torch.rand(4, generator=tensor_stream(3, "x")))


def test_any_difference_gives_other_draws() -> None:
    streams = [stream(3, "cohort", 1), stream(4, "cohort", 1), stream(3, "batches", 1), stream(3, "cohort", 2), stream(3, "cohort", 1, 0)]
    assert len({s.random() for s in streams}) == len(streams)


def test_the_value_of_a_stream_never_changes() -> None:
    # Results published with one version must come out of the next.
    assert stream(0, "partition").integers(2**63) == 8883602324357596672


def test_what_draws_from_global_generators_can_be_seeded_and_they_go_on_as_before() -> None:
    def draws() -> tuple[float, float, float]:
        return random.random(), np.random.random(), float(torch.rand(()))

    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    undisturbed = draws(), draws()
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    first = draws()
    inside = []
    for seed in (5, 5, 2**63 - 1):
        with seeded_globals(seed):
            inside.append(draws())
    assert (first, draws()) == undisturbed
    assert inside[0] == inside[1] != inside[2]


def test_pythons_generator_goes_on_after_the_outer_block_and_after_a_seeded_block_in_a_seeded_one() -> None:
    random.seed(1)
    undisturbed = random.random(), random.random(), random.random()
    with seeded_globals(5):
        inside = random.random(), random.random()
    random.seed(1)
    first = random.random()
    with pytest.raises(KeyboardInterrupt), kept_python_generator(), kept_python_generator():
        for _ in range(2):
            with seeded_globals(5):
                drawn = [random.random()]
                with seeded_globals(6):
                    random.random()
                drawn.append(random.random())
            assert tuple(drawn) == inside
        raise KeyboardInterrupt
    second = random.random()
    with seeded_globals(5):
        random.random()
    assert (first, second, random.random()) == undisturbed


def test_the_digest_is_read_as_one_number_was_before() -> None:
    # SeedSequence gets four words; a number of 128 bits, whose zeros at the end are no words of it, gives the same.
    for digest in (bytes(16), bytes(15) + b"\1", b"\1" + bytes(15), bytes(range(12)) + bytes(4)):
        words, number = (np.random.SeedSequence(entropy) for entropy in (np.frombuffer(digest, "<u4", 4), int.from_bytes(digest, "little")))
        assert words.generate_state(4).tolist() == number.generate_state(4).tolist()
