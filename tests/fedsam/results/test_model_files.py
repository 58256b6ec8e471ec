"""Models on disk: what they are made for goes with them, and each reason why there is none is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from experiments import Result, run
from fedsam import load_model
from fedsam.config import ConfigError
from fedsam.overrides import override
from fedsam.results.model_files import save_model
from fedsam.results.store import Results
from tests.support.trap import sprung, trap

SETTINGS: dict[str, Any] = {
    "rounds": 1,
    "data": {"dataset": "digits", "examples": 100, "clients": 2},
    "server": {"participation": 2},
    "compute": {"grid": "inline"},
    "measure": {"union": False},
}
BATCH_NORM = {"name": "resnet20", "norm": "batch"}


def made(folder: Path, **changes: Any) -> Result:
    """A small run in this process."""
    return run(override(SETTINGS, {"runs_dir": str(folder)} | {key.replace("__", "."): value for key, value in changes.items()}))


@pytest.mark.parametrize(("model", "precision"), [("lenet5", "float64"), (BATCH_NORM, "float32")])
def test_a_stored_model_is_the_one_of_the_run(tmp_path: Path, model: Any, precision: str) -> None:
    result = made(tmp_path, model=model, compute__precision=precision)
    loaded = load_model(result.run_id[:-3], tmp_path)
    assert not loaded.training
    state, expected = loaded.state_dict(), result.model.state_dict()
    assert list(state) == list(expected)
    assert all(torch.equal(state[name], expected[name]) and state[name].dtype == expected[name].dtype for name in state)
    x = torch.rand(3, 1, 32, 32, dtype=getattr(torch, precision))
    assert torch.equal(loaded(x), result.model.eval()(x))


def test_models_of_the_rounds_before_the_last_are_there_where_they_were_kept(tmp_path: Path) -> None:
    changes = {"model": "lenet5", "checkpoint": {"every": 1}, "measure": {"union": False}}
    one, two = (made(tmp_path / str(rounds), rounds=rounds, **changes) for rounds in (1, 2))
    kept, final = load_model(two.run_id, tmp_path / "2", round=1), load_model(one.run_id, tmp_path / "1")
    assert all(torch.equal(tensor, final.state_dict()[name]) for name, tensor in kept.state_dict().items())
    with pytest.raises(ConfigError, match=r"left no .*round-00003\.safetensors; it left those after the rounds 1, 2, for `round`"):
        load_model(two.run_id, tmp_path / "2", round=3)


class Drawn(nn.Sequential):
    """A model with a tensor that is in no file."""

    def __init__(self, image: tuple[int, int, int], classes: int) -> None:
        super().__init__(nn.Flatten(), nn.Linear(int(np.prod(image)), classes))
        self.register_buffer("features", torch.tensor(np.random.rand(3)), persistent=False)


def test_tensors_that_are_in_no_file_are_those_of_the_run(tmp_path: Path) -> None:
    result = made(tmp_path, model=f"{__name__}:Drawn", seed=7)
    assert torch.equal(load_model(result.run_id, tmp_path).features.float(), result.model.features)


def test_files_of_equal_models_are_equal(tmp_path: Path) -> None:
    network = nn.Linear(3, 2)
    for number in range(20):
        save_model(network, tmp_path / f"{number}.safetensors", (1, 1, 3), 2)
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1


def test_the_global_generator_stays_as_it_was(tmp_path: Path) -> None:
    result = made(tmp_path, model="lenet5")
    torch.manual_seed(7)
    before = torch.random.get_rng_state()
    load_model(result.run_id, tmp_path)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_runs_that_are_not_there_or_left_no_model_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"runs_dir: .* holds no fedsam\.db"):
        load_model("2026", tmp_path / "none")
    first, second = (made(tmp_path, model="lenet5", seed=seed).run_id for seed in (0, 1))
    with pytest.raises(ConfigError, match=r"run: '1999' is not known"):
        load_model("1999", tmp_path)
    with pytest.raises(ConfigError, match=f"2 runs begin so: {first}, {second}"):
        load_model("2", tmp_path)
    path = tmp_path / first / "model.safetensors"
    path.unlink()
    with Results.open(tmp_path) as results:
        results._connection.execute("UPDATE runs SET status = 'interrupted' WHERE id = ?", (first,))
    with pytest.raises(ConfigError, match=f"run {first} is interrupted and left no {path}"):
        load_model(first, tmp_path)


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    result = made(tmp_path, model="lenet5")
    path = tmp_path / result.run_id / "model.safetensors"
    save_file(load_file(path), path)  # as they were written before they said what they are made for
    with pytest.raises(ConfigError, match=f"{path}: does not say what images its network takes: .* make run {result.run_id} again"):
        load_model(result.run_id, tmp_path)
    for blob in (path.read_bytes()[:1000], trap(tmp_path / "marker")):
        path.write_bytes(blob)
        with pytest.raises(ConfigError, match=f"{path}: cannot be read"):
            load_model(result.run_id, tmp_path)
        assert not sprung(tmp_path / "marker")
