"""What must hold for whatever is given: configs, partitions, what is encoded for the wire."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from experiments.settings.sweep import expand
from fedsam.config import ConfigError, Experiment, parse
from fedsam.data import partition
from fedsam.messages import codec
from fedsam.messages.codec import PartialSum, Update
from fedsam.overrides import assigned, flatten, read
from fedsam.seeds import stream

QUICK = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
KEYS = [*flatten(Experiment().dump()), "sweep", "sweep.seeds", "sweep.client.optimizer.lr", "client.optimizer.rho", "data", "client", "x"]
VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(["sgd", "sam", "digits", "iid"])
NAMES = st.text(max_size=6) | st.sampled_from(["name", "lr", "alpha"])
PLAIN = st.recursive(VALUES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3), max_leaves=6)


@QUICK
@given(st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=6), PLAIN, max_size=4))
def test_settings_of_any_kind_are_an_experiment_or_an_error_in_words(changes: dict[str, Any]) -> None:
    given: dict[str, Any] = {}
    for key, value in changes.items():
        *tables, last = key.split(".")
        place = given
        for table in tables:
            place = place.setdefault(table, {})
            if not isinstance(place, dict):
                return
        place[last] = value
    for make in (parse, expand):
        with suppress(ConfigError):
            made = make(given)
            assert made


@QUICK
@given(text=st.text(max_size=60) | st.binary(max_size=60), override=st.text(max_size=20))
def test_files_and_overrides_of_any_kind_are_settings_or_an_error_in_words(text: str | bytes, override: str, tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_bytes(text.encode(errors="surrogatepass") if isinstance(text, str) else text)
    with suppress(ConfigError):
        parse(read(path, [override]))
    with suppress(ConfigError):
        assert assigned(override)


@QUICK
@given(
    labels=st.lists(st.integers(0, 9), min_size=1, max_size=200),
    clients=st.integers(1, 40),
    component=st.one_of(
        st.just({"name": "iid"}),
        st.fixed_dictionaries({"name": st.just("dirichlet"), "alpha": st.floats(1e-3, 1e3)}),
        st.fixed_dictionaries({"name": st.just("dirichlet"), "alpha": st.floats(1e-3, 1e3), "balanced": st.just(True)}),
        st.fixed_dictionaries({"name": st.just("shards"), "classes_per_client": st.integers(1, 5)}),
        st.fixed_dictionaries({"name": st.just("quantity"), "sigma": st.floats(0, 5)}),
    ),
    seed=st.integers(0, 2**32),
)
def test_partitions_are_disjoint_and_cover_all_examples(labels: list[int], clients: int, component: dict[str, Any], seed: int) -> None:
    settings = {key: value for key, value in component.items() if key != "name"}
    try:
        parts = partition.PARTITIONS[component["name"]](np.array(labels), clients, stream(seed, "partition"), **settings)
    except ConfigError:
        return
    assert len(parts) == clients and all(len(part) for part in parts)
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(labels)))


NUMBERS = st.floats(width=32, allow_nan=False)
VECTORS = st.dictionaries(
    st.sampled_from(["w", "delta", "buffers", "mean.h", "population.c"]),
    st.lists(NUMBERS, max_size=6).map(lambda values: torch.tensor(values, dtype=torch.float32)),
    max_size=4,
)


@QUICK
@given(vectors=VECTORS, metrics=st.dictionaries(st.sampled_from(["steps", "num-examples", "sent.x"]), NUMBERS, min_size=1))
def test_an_update_comes_out_of_its_record_as_it_went_in(vectors: dict[str, torch.Tensor], metrics: dict[str, float]) -> None:
    got = codec.decode_update(codec.encode_update(Update(vectors, metrics)))
    assert got.metrics == metrics
    _assert_same(got.vectors, vectors)


@QUICK
@given(
    vectors=VECTORS,
    nodes=st.lists(st.integers(1, 2**62), min_size=1, max_size=4, unique=True),
    weight=st.floats(1e-3, 1e9),
    failures=st.dictionaries(st.integers(1, 2**62), st.text(max_size=10), max_size=3),
)
def test_a_partial_sum_comes_out_of_its_record_as_it_went_in(
    vectors: dict[str, torch.Tensor], nodes: list[int], weight: float, failures: dict[int, str]
) -> None:
    total = PartialSum(nodes=nodes, weight=weight, vectors=vectors, metrics={"steps": [1.0] * len(nodes)}, bytes=7, failures=failures)
    got = codec.decode_partial_sum(codec.encode_partial_sum(total))
    assert got is not None
    assert (got.nodes, got.weight, got.metrics, got.bytes, got.failures) == (nodes, weight, total.metrics, 7, failures)
    _assert_same(got.vectors, vectors)


def _assert_same(got: Any, want: dict[str, torch.Tensor]) -> None:
    assert got.keys() == want.keys()
    assert all(torch.equal(got[name], want[name]) and got[name].dtype == want[name].dtype for name in want)
