"""Partitioners of flwr-datasets: stand-ins of the same interface, and the real ones among the proofs."""

from __future__ import annotations

import importlib
import sys
from itertools import chain
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from fedsam import registry
from fedsam.config import Component, ConfigError
from fedsam.data import flwr_partition, partition
from fedsam.data.flwr_partition import as_partition, from_flwr, is_partitioner
from fedsam.data.partition import PARTITIONS

LABELS = np.arange(40) % 4


class Fake:
    """What flwr-datasets' partitioners look like from outside."""

    def __init__(self, indices: list[list[int]]) -> None:
        self.indices, self.num_partitions = indices, len(indices)
        self.dataset: dict[str, list[int]] = {}

    def load_partition(self, partition_id: int) -> dict[str, list[int]]:
        return {key: [column[row] for row in self.indices[partition_id]] for key, column in self.dataset.items()}


def test_from_flwr() -> None:
    fake = Fake([[3, 1], [0, 2]])
    indices = from_flwr(fake, np.array([5, 6, 7, 8]), make_dataset=dict)
    assert fake.dataset == {"idx": [0, 1, 2, 3], "label": [5, 6, 7, 8]}
    assert [piece.tolist() for piece in indices] == [[1, 3], [0, 2]]


@pytest.mark.parametrize(
    ("indices", "dealt"), [([[0, 1], [2]], "3 examples, 3 different, of 4"), ([[0, 1], [1, 2, 3]], "5 examples, 4 different")]
)
def test_from_flwr_wants_a_cover(indices: list[list[int]], dealt: str) -> None:
    with pytest.raises(ValueError, match=f"Fake deals {dealt}"):
        from_flwr(Fake(indices), np.arange(4), make_dataset=dict)


def test_from_flwr_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(ModuleNotFoundError, match="pip install flwr-datasets"):
        from_flwr(Fake([[0]]), np.arange(1))


class ByLabel:
    """A partitioner with the signature of flwr-datasets' DirichletPartitioner: shuffled by seed, then cut into equal indices."""

    def __init__(self, num_partitions: int, partition_by: str, alpha: float, shuffle: bool = True, seed: int | None = 42) -> None:
        if alpha <= 0:
            raise ValueError("alpha must be > 0")
        self._num_partitions, self.partition_by, self.seed = num_partitions, partition_by, seed
        self.dataset: Any = None

    @property
    def num_partitions(self) -> int:
        return self._num_partitions

    def load_partition(self, partition_id: int) -> dict[str, list[int]]:
        order = np.random.default_rng(self.seed).permutation(len(self.dataset[self.partition_by]))
        return {"idx": order[partition_id :: self._num_partitions].tolist()}


@pytest.fixture
def standin(monkeypatch: pytest.MonkeyPatch) -> None:
    """A package flwr_datasets with one partitioner, which takes a dict for its dataset."""
    monkeypatch.setattr(flwr_partition, "_huggingface", lambda: dict)
    package, module = ModuleType("flwr_datasets"), ModuleType("flwr_datasets.partitioner")
    package.__path__ = []
    module.ByLabel = ByLabel  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "flwr_datasets", package)
    monkeypatch.setitem(sys.modules, "flwr_datasets.partitioner", module)
    monkeypatch.setattr(partition, "find_spec", lambda name: package)


def drawn(stream: int = 0, name: str = "flwr_datasets:ByLabel", **settings: Any) -> list[list[int]]:
    draw = registry.build(PARTITIONS, Component.model_validate({"name": name, **settings}), "data.partition")
    return [part.tolist() for part in draw(LABELS, 5, np.random.default_rng(stream))]


@pytest.mark.usefixtures("standin")
def test_a_partitioner_is_a_partition_by_name() -> None:
    found = drawn(alpha=0.5)
    assert [len(part) for part in found] == [8] * 5
    assert sorted(chain(*found)) == list(range(40))
    assert found == drawn(alpha=0.5, num_partitions=5, partition_by="label")
    assert drawn(1, alpha=0.5) != drawn(2, alpha=0.5)
    assert drawn(1, alpha=0.5, seed=7) == drawn(2, alpha=0.5, seed=7)


@pytest.mark.usefixtures("standin")
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, r"data\.partition\.alpha: must be given"),
        ({"alfa": 1, "alpha": 1}, r"data\.partition\.alfa: unknown key, did you mean 'alpha'"),
        ({"alpha": -1}, r"data\.partition: ByLabel is not allowed: alpha must be > 0"),
        ({"alpha": 1, "num_partitions": 7}, r"data\.partition\.num_partitions: 7 is not allowed: data\.clients is 5"),
        ({"alpha": 1, "partition_by": "colour"}, r"data\.partition: ByLabel is not allowed: 'colour'"),
        ({"name": "flwr_datasets:ByLabl"}, "has no ByLabl, did you mean 'ByLabel'"),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        drawn(**settings)


def test_without_flwr_datasets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partition, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"it needs the package flwr-datasets: pip install 'fedsam\[flwr-datasets\]'"):
        drawn(alpha=1)


def test_only_classes_of_partitioners_are_partitioners() -> None:
    assert not is_partitioner(ByLabel(1, "label", 1.0))
    assert not is_partitioner(np.random.default_rng)
    assert is_partitioner(type("Lazy", (), {"load_partition": None, "num_partitions": property(lambda self: 3)}))
    assert as_partition(ByLabel).__name__ == "ByLabel"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize(
    "settings",
    [
        {"name": "DirichletPartitioner", "alpha": 0.3, "min_partition_size": 2},
        {"name": "IidPartitioner"},
        {"name": "PathologicalPartitioner", "num_classes_per_partition": 2, "class_assignment_mode": "deterministic"},
        {"name": "ShardPartitioner", "num_shards_per_partition": 2, "keep_incomplete_shard": True},
        {"name": "SizePartitioner", "partition_sizes": [2, 3, 5, 10, 20]},
    ],
    ids=lambda settings: settings["name"],
)
def test_the_real_ones(settings: dict[str, Any]) -> None:
    settings = {**settings, "name": f"flwr_datasets:{settings['name']}"}
    found = drawn(**settings)
    assert sorted(chain(*found)) == list(range(40))
    assert found == drawn(**settings)
