"""Trees of tensors and plain values in safetensors files, whose writing has reached the disk when the functions return."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

Tree = Any  # tensors, numbers, texts, bytes and None, nested in mappings by name and in lists


def packed(states: Mapping[int, tuple[Tree, Mapping[str, Tensor]]]) -> tuple[dict[str, Tensor], str]:
    """The tensors of several clients under one name each, and their plain values as one text."""
    tensors = {f"{client}/{name}": tensor for client, (_, its) in states.items() for name, tensor in its.items()}
    return tensors, json.dumps({str(client): plain for client, (plain, _) in states.items()})


def load(path: Path, clients: Iterable[int]) -> Iterator[tuple[int, Tree]]:
    """The number and tree of each of these clients, from a file of `packed` ones; one tree at a time is in memory."""
    with safe_open(path, framework="pt") as file:
        plain: Mapping[str, Tree] = json.loads(file.metadata()["plain"])
        for client in clients:
            yield client, join(plain[str(client)], partial(_tensor, file, client))


def _tensor(file: Any, client: int, name: str) -> Tensor:
    tensor: Tensor = file.get_tensor(f"{client}/{name}")
    return tensor


def split(tree: Tree, tensors: dict[str, Tensor]) -> Tree:
    """The tree as JSON takes it; its tensors are put into `tensors`, by number. Raises `TypeError` for what a tree cannot hold."""
    if isinstance(tree, Tensor):
        name = str(len(tensors))
        tensors[name] = tree.detach().cpu().clone()  # tensors that share memory cannot be written
        return {"tensor": name}
    if isinstance(tree, bytes):
        return {"bytes": base64.b64encode(tree).decode()}
    if isinstance(tree, Mapping) and all(isinstance(name, str) for name in tree):
        return {"items": {name: split(value, tensors) for name, value in tree.items()}}
    if isinstance(tree, list | tuple):
        return [split(value, tensors) for value in tree]
    if tree is None or isinstance(tree, bool | int | float | str):
        return tree
    raise TypeError(f"a checkpoint holds tensors, numbers, texts, bytes, lists and mappings by text of these, not {type(tree).__name__}")


def join(tree: Tree, tensor: Callable[[str], Tensor]) -> Tree:
    """The tree that `split` made plain; `tensor` gives tensors by name."""
    if isinstance(tree, list):
        return [join(value, tensor) for value in tree]
    if not isinstance(tree, dict):
        return tree
    if "items" in tree:
        return {name: join(value, tensor) for name, value in tree["items"].items()}
    return tensor(tree["tensor"]) if "tensor" in tree else base64.b64decode(tree["bytes"])


def save(path: Path, tensors: dict[str, Tensor], plain: str = "") -> str:
    """Write tensors; the SHA-256 of the file. Raises `OSError` where that cannot be done."""
    try:
        save_file(tensors, path, metadata={"plain": plain})
    except SafetensorError as error:  # what the operating system says is in it as text alone
        raise OSError(f"{path} cannot be written: {error}") from None
    with path.open("rb+") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
        os.fsync(file.fileno())
    return found


def write(path: Path, content: bytes) -> None:
    """Write a file."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def sync(folder: Path) -> None:
    """Write a folder's entries."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
