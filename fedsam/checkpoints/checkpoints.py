"""Checkpoints of a run: all that its next round depends on, in files that are there whole or not at all.

A checkpoint is a folder `NNNNN`, the number of its round, with `server.safetensors`, `clients-NNNN.safetensors` and `manifest.json`. The
states of clients that have not changed since an earlier checkpoint stay in its files, to which the manifest refers. Nothing is pickled.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

from fedsam.checkpoints.tensor_trees import Tree, join, load, packed, save, split, sync, write
from fedsam.results.config_hash import digest

FORMAT = 1  # of the manifest
MANIFEST_NAME, SERVER_NAME = "manifest.json", "server.safetensors"
KEPT = 2  # checkpoints
MAX_AGE = 8  # checkpoints after which a client's state is written again, so that old files can go
FILE_BYTES = 2**26  # of clients' states in one file, about


class CheckpointError(ValueError):
    """A checkpoint cannot be used; the message says which and why."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was read and is whole.

    Attributes:
        round: The last round that it holds, from 1.
        server: What was given to `CheckpointFolder.write`; tuples come back as lists.
        identity: Likewise.
        damaged: Later checkpoints that cannot be used, each with the reason.
    """

    round: int
    server: Tree
    identity: Mapping[str, str]
    damaged: tuple[str, ...] = ()
    _files: Mapping[Path, tuple[int, ...]] = field(default_factory=dict, repr=False)

    def clients(self) -> Iterator[tuple[int, Tree]]:
        """The number and state of each client that has one; one state at a time is in memory."""
        for path, numbers in self._files.items():
            yield from load(path, numbers)


class CheckpointFolder:
    """The checkpoints of one run.

    Args:
        path: The folder that holds theirs; it may be missing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._last: Mapping[str, Any] = {"clients": {}, "files": {}, "ages": {}}  # manifest of the checkpoint read or written last
        self._unusable: set[Path] = set()  # checkpoints that were found damaged, which stay until there are others

    def write(self, round: int, server: Tree, clients: Iterable[tuple[int, Tree]], identity: Mapping[str, str]) -> Path:
        """Write the checkpoint after a round, unless it is the last one, and remove what neither it nor the one before it needs.

        Args:
            clients: Number and state of each client whose state is not that of the checkpoint that this object read or wrote last; of
                every client that has one if it did neither.
            identity: What a run that goes on from here must have in common with this one.

        Returns:
            Its folder.

        Raises:
            OSError: It cannot be written; earlier checkpoints are as before.
            TypeError: The server or a client holds what a checkpoint cannot.
        """
        final, partial = self.path / f"{round:05d}", self.path / f".{round:05d}.partial"
        if self._last.get("round") == round:
            return final
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        try:
            before, tensors = self._last, dict[str, Tensor]()
            tree = split(server, tensors)
            files = {f"{final.name}/{SERVER_NAME}": save(partial / SERVER_NAME, tensors)}
            changed = dict[str, list[int]]()
            for number, states in enumerate(_files(self._with_aged(clients, before))):
                name = f"clients-{number:04d}.safetensors"
                files[f"{final.name}/{name}"] = save(partial / name, *packed(states))
                changed[f"{final.name}/{name}"] = list(states)
            new = {client for numbers in changed.values() for client in numbers}
            kept = {name: [client for client in numbers if client not in new] for name, numbers in before["clients"].items()}
            held = {name: numbers for name, numbers in kept.items() if numbers} | changed
            manifest = {
                "format": FORMAT,
                "round": round,
                "identity": dict(identity),
                "server": tree,
                "clients": held,
                "files": files | {name: before["files"][name] for name in held if name not in files},
                "ages": {name: before["ages"].get(name, -1) + 1 for name in held},
            }
            text = json.dumps(manifest)
            write(partial / MANIFEST_NAME, json.dumps({"sha256": digest(text), "manifest": text}).encode())
            sync(partial)
            shutil.rmtree(final, ignore_errors=True)  # one that was found damaged
            partial.rename(final)
            sync(self.path)
            self._last = manifest
            self._unusable.discard(final)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        self._remove_old()
        return final

    def latest(self, most: int) -> Checkpoint | None:
        """The latest checkpoint that can be used; None where there is none.

        Args:
            most: The last round whose checkpoint can be used, because of what else is kept of the run.

        Raises:
            CheckpointError: There are only such that cannot be used.
        """
        damaged = list[str]()
        for folder in self._folders():
            try:
                manifest = _checked(folder, most)
            except CheckpointError as error:
                damaged.append(str(error))
                self._unusable.add(folder)
                continue
            with safe_open(folder / SERVER_NAME, framework="pt") as file:
                server = join(manifest["server"], file.get_tensor)
            self._last = manifest
            files = {self.path / name: tuple(numbers) for name, numbers in manifest["clients"].items()}
            return Checkpoint(manifest["round"], server, manifest["identity"], tuple(damaged), files)
        if damaged:
            raise CheckpointError("; ".join(damaged))
        return None

    def _folders(self) -> list[Path]:
        """The folders of checkpoints, the latest first."""
        found = [each for each in self.path.iterdir() if (each / MANIFEST_NAME).is_file()] if self.path.is_dir() else []
        return sorted((each for each in found if each.name.isdecimal()), key=lambda each: int(each.name), reverse=True)

    def _manifests(self) -> Iterator[Mapping[str, Any]]:
        """The manifests of the checkpoints that may be used, the latest first."""
        for folder in self._folders():
            if folder in self._unusable:
                continue
            try:
                yield _manifest(folder)
            except CheckpointError:
                continue

    def _with_aged(self, clients: Iterable[tuple[int, Tree]], before: Mapping[str, Any]) -> Iterator[tuple[int, Tree]]:
        """The states, and those in files that are too old."""
        new = set[int]()
        for client, state in clients:
            new.add(client)
            yield client, state
        for name, numbers in before["clients"].items():
            if before["ages"][name] >= MAX_AGE:
                yield from load(self.path / name, [client for client in numbers if client not in new])

    def _remove_old(self) -> None:
        """Remove all files that the last checkpoints do not need."""
        manifests = [manifest for manifest, _ in zip(self._manifests(), range(KEPT), strict=False)]
        needed = {name for manifest in manifests for name in (*manifest["files"], f"{manifest['round']:05d}/{MANIFEST_NAME}")}
        for file in [file for file in self.path.glob("*/*") if file.relative_to(self.path).as_posix() not in needed]:
            file.unlink()
        for folder in self.path.iterdir():
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()


def _manifest(folder: Path) -> Mapping[str, Any]:
    """The manifest of a checkpoint. Raises `CheckpointError` where it is damaged or of another format."""
    path = folder / MANIFEST_NAME
    try:
        outer = json.loads(path.read_text())
        if outer["sha256"] != digest(outer["manifest"]):
            raise CheckpointError(f"{path} is damaged: its hash is another")
        found: Mapping[str, Any] = json.loads(outer["manifest"])
        if found["format"] != FORMAT:
            raise CheckpointError(f"{path} has format {found['format']}, and this fedsam reads format {FORMAT}")
    except (OSError, ValueError, KeyError, TypeError, RecursionError, AttributeError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path} is damaged: {type(error).__name__}: {error}") from None
    return found


def _checked(folder: Path, most: int) -> Mapping[str, Any]:
    """The manifest of a checkpoint whose files are whole. Raises `CheckpointError` where one is not, and as `CheckpointFolder.latest`."""
    manifest = _manifest(folder)
    if manifest["round"] > most:
        raise CheckpointError(f"{folder} cannot be used: the results hold no more than round {most - 1}")
    for name, expected in manifest["files"].items():
        path = folder.parent / name
        try:
            with path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise CheckpointError(f"{path} is damaged: {error}") from None
        if found != expected:
            raise CheckpointError(f"{path} is damaged: its hash is another")
    return manifest


def _files(states: Iterable[tuple[int, Tree]]) -> Iterator[dict[int, tuple[Tree, dict[str, Tensor]]]]:
    """The states in groups for one file each, split into plain values and tensors."""
    group, size = dict[int, tuple[Tree, dict[str, Tensor]]](), 0
    for client, state in states:
        tensors: dict[str, Tensor] = {}
        group[client] = split(state, tensors), tensors
        size += sum(tensor.nbytes for tensor in tensors.values())
        if size >= FILE_BYTES:
            yield group
            group, size = {}, 0
    if group:
        yield group
