"""Tests of fedsam.checkpoints.checkpoints."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsam.checkpoints import checkpoints
from fedsam.checkpoints.checkpoints import MANIFEST_NAME, CheckpointError, CheckpointFolder

SERVER = {"w": torch.arange(3.0), "state": {"inner": {"v": torch.ones(2), "k": 3}, "started": True, "none": None}, "accepted": [[1, 2]]}
IDENTITY = {"config_hash": "abc"}


def state(value: float) -> dict[str, Any]:
    return {"correction": {"c": torch.full((2,), value)}, "note": ["a", 1.5, b"\x00\xff"]}


def plain(tree: Any) -> Any:
    """Comparable, with lists in place of tensors."""
    if isinstance(tree, torch.Tensor):
        return [str(tree.dtype), tree.tolist()]
    if isinstance(tree, dict):
        return {name: plain(value) for name, value in tree.items()}
    return [plain(value) for value in tree] if isinstance(tree, list | tuple) else tree


def read(path: Path) -> tuple[int, dict[int, Any]]:
    found = CheckpointFolder(path).latest(most=99)
    assert found is not None
    return found.round, {client: plain(tree) for client, tree in found.clients()}


def test_a_checkpoint_comes_back_as_it_was_written(tmp_path: Path) -> None:
    CheckpointFolder(tmp_path / "c").write(5, SERVER, [(0, state(1)), (7, state(2))], IDENTITY)
    found = CheckpointFolder(tmp_path / "c").latest(most=99)
    assert found is not None
    assert (found.round, found.identity, found.damaged, plain(found.server)) == (5, IDENTITY, (), plain(SERVER))
    assert {client: plain(tree) for client, tree in found.clients()} == {0: plain(state(1)), 7: plain(state(2))}
    assert CheckpointFolder(tmp_path / "none").latest(most=99) is None


def test_only_changed_states_are_written_and_two_checkpoints_are_kept(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path)
    folder.write(1, SERVER, [(0, state(1)), (1, state(1))], IDENTITY)
    folder.write(2, SERVER, [(1, state(2))], IDENTITY)
    folder.write(3, SERVER, [], IDENTITY)
    assert read(tmp_path) == (3, {0: plain(state(1)), 1: plain(state(2))})
    assert sorted(each.relative_to(tmp_path).as_posix() for each in tmp_path.glob("*/*")) == [
        *("00001/clients-0000.safetensors", "00002/clients-0000.safetensors", "00002/manifest.json", "00002/server.safetensors"),
        *("00003/manifest.json", "00003/server.safetensors"),
    ]


def test_states_that_never_change_are_written_again_so_that_old_files_can_go(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path)
    for round in range(1, 40):
        folder.write(round, SERVER, [(round % 5 + 1, state(round))] if round > 1 else [(0, state(0))], IDENTITY)
    assert read(tmp_path) == (39, {0: plain(state(0)), **{round % 5 + 1: plain(state(round)) for round in range(35, 40)}})
    assert len(list(tmp_path.glob("*/clients-*"))) <= checkpoints.MAX_AGE + checkpoints.KEPT + 1


def test_large_states_go_to_several_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "FILE_BYTES", 32)
    CheckpointFolder(tmp_path).write(1, SERVER, [(client, state(client)) for client in range(5)], IDENTITY)
    assert len(list(tmp_path.glob("*/clients-*"))) == 3
    assert read(tmp_path) == (1, {client: plain(state(client)) for client in range(5)})


@pytest.mark.parametrize("name", ["manifest.json", "server.safetensors", "clients-0000.safetensors"])
@pytest.mark.parametrize("how", ["truncated", "edited", "missing"])
def test_of_damaged_checkpoints_the_one_before_is_used_and_that_is_said(tmp_path: Path, name: str, how: str) -> None:
    folder = CheckpointFolder(tmp_path)
    folder.write(1, SERVER, [(0, state(1))], IDENTITY)
    folder.write(2, SERVER, [(0, state(2))], IDENTITY)
    path = tmp_path / "00002" / name
    content = path.read_bytes()
    if how == "missing":
        path.unlink()
    else:
        path.write_bytes(content[:-3] if how == "truncated" else content[:-3] + bytes([content[-3] ^ 1]) + content[-2:])
    again = CheckpointFolder(tmp_path)
    found = again.latest(most=99)
    assert found is not None
    assert found.round == 1
    if (how, name) != ("missing", MANIFEST_NAME):  # without which there is no checkpoint
        assert str(path) in found.damaged[0]
    again.write(2, SERVER, [(0, state(3))], IDENTITY)
    assert read(tmp_path) == (2, {0: plain(state(3))})


def test_checkpoints_that_cannot_be_used_are_in_nobodys_way(tmp_path: Path) -> None:
    """Those of rounds that the results do not hold, as they were restored from an older copy."""
    folder = CheckpointFolder(tmp_path)
    for round in (4, 8):
        folder.write(round, SERVER, [(0, state(round))], IDENTITY)
    again = CheckpointFolder(tmp_path)
    with pytest.raises(CheckpointError, match=r"00008 cannot be used: the results hold no more than round 2.*00004 cannot"):
        again.latest(most=3)
    for round in (1, 2, 3):
        again.write(round, SERVER, [(0, state(10 * round))], IDENTITY)
    assert read(tmp_path) == (3, {0: plain(state(30))})
    assert sorted(each.name for each in tmp_path.iterdir()) == ["00002", "00003"]


def test_where_all_are_damaged_that_is_an_error(tmp_path: Path) -> None:
    CheckpointFolder(tmp_path).write(1, SERVER, [], IDENTITY)
    (tmp_path / "00001" / "server.safetensors").write_bytes(b"cos\nsystem\n(S'touch gotcha'\ntR.")
    with pytest.raises(CheckpointError, match=r"server\.safetensors is damaged"):
        CheckpointFolder(tmp_path).latest(most=99)


def test_a_checkpoint_that_cannot_be_written_leaves_the_earlier_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = CheckpointFolder(tmp_path)
    folder.write(1, SERVER, [(0, state(1))], IDENTITY)

    def full(path: Path, content: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "write", full)
        with pytest.raises(OSError, match="No space left"):
            folder.write(2, SERVER, [(0, state(2))], IDENTITY)
    assert read(tmp_path) == (1, {0: plain(state(1))})
    assert [each.name for each in tmp_path.iterdir()] == ["00001"]
    folder.write(3, SERVER, [(0, state(2))], IDENTITY)
    assert read(tmp_path) == (3, {0: plain(state(2))})


def test_what_no_checkpoint_can_hold_is_named(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="not set"):
        CheckpointFolder(tmp_path).write(1, {"w": {1, 2}}, [], IDENTITY)


@settings(max_examples=50, deadline=None)
@given(
    content=st.binary(max_size=200)
    | st.recursive(st.none() | st.integers() | st.text(max_size=5), st.lists).map(lambda v: json.dumps(v).encode())
)
def test_a_manifest_of_any_bytes_is_damaged_and_nothing_else(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    folder = tmp_path_factory.mktemp("fuzz") / "00001"
    folder.mkdir()
    (folder / MANIFEST_NAME).write_bytes(content)
    with pytest.raises(CheckpointError):
        CheckpointFolder(folder.parent).latest(most=99)
