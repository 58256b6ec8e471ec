"""Model files of runs: safetensors files with the image shape and number of classes of the network."""

from __future__ import annotations

import json
import shutil
import tempfile
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from fedsam.config import Component, ConfigError
from fedsam.models import architectures
from fedsam.models.architectures import ImageShape
from fedsam.results.rows import Run
from fedsam.results.store import Results
from fedsam.results.write_queue import StorageError

FINAL_MODEL_NAME = "model.safetensors"
WRITE_ATTEMPTS, RETRY_SECONDS = 3, 1.0  # of a model, and between two of them
NETWORK_KEY = "network"  # metadata entry with the image shape and the number of classes


def save_model(module: nn.Module, path: Path, image: ImageShape, classes: int) -> None:
    """Write the state of a network atomically.

    Args:
        image: Channels, height and width of its input.
        classes: Number of classes.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.stem}.partial")
    # Parameters are views of one storage, which safetensors refuses to write, so each is copied.
    state = {key: tensor.detach().cpu().clone() for key, tensor in module.state_dict().items()}
    # One entry, because safetensors writes several in arbitrary order, and files of equal models must be equal.
    try:
        save_file(state, draft, metadata={NETWORK_KEY: json.dumps({"image": image, "classes": classes})})
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def keep_model(module: nn.Module, path: Path, image: ImageShape, classes: int, warn: Callable[[str], None]) -> Path:
    """As `save_model`, but tried again where that fails, and then written to the folder of temporary files; returns where it is.

    Args:
        warn: Is told where it is, if it is not at `path`.

    Raises:
        StorageError: There is no room there either.
    """
    for attempt in range(WRITE_ATTEMPTS):
        threading.Event().wait(RETRY_SECONDS if attempt else 0.0)
        try:
            save_model(module, path, image, classes)
            return path
        except (OSError, SafetensorError) as error:
            why = str(error)
    place = Path(tempfile.mkdtemp(prefix=f"fedsam-model-{path.parent.name}-"))  # which only this user can enter
    other = place / path.name
    try:
        save_model(module, other, image, classes)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(place, ignore_errors=True)
        raise StorageError(f"{path} cannot be written ({why}), nor can {other} ({error}); free some space, the rounds are kept") from None
    warn(f"{path} cannot be written ({why}): the model is in {other}; move it there once there is space")
    return other


def round_name(round: int) -> str:
    """The name of the file of the model after a round, which `checkpoint.every` asks for."""
    return f"round-{round:05d}.safetensors"


def load_model(run: str, runs_dir: Path | str = "runs", round: int | None = None) -> nn.Module:
    """Load the final model of a run, or one that it kept on the way, on the CPU and in evaluation mode, without its dataset.

    Its input are images scaled to 0..1 and normalized by mean and standard deviation of the dataset, as in training.

    Args:
        run: Its id, or the start of it.
        runs_dir: Folder of the results.
        round: The round after which it was kept (`checkpoint.every`); default: the last.

    Raises:
        ConfigError: No run, or more than one, has this id; or the model is missing or cannot be read.
    """
    with Results.open(Path(runs_dir), create=False) as results:
        found = results.find_one(run)
    folder = Path(runs_dir) / found.id
    path = folder / (FINAL_MODEL_NAME if round is None else round_name(round))
    if not path.is_file():
        rounds = [int(name) for file in sorted(folder.glob("round-*.safetensors")) if (name := file.stem.partition("-")[2]).isdecimal()]
        others = f"; it left those after the rounds {', '.join(map(str, rounds))}, for `round`" if rounds else ""
        raise ConfigError(f"run: {run!r} is not allowed: run {found.id} is {found.status} and left no {path}{others}")
    return _load(path, found)


def _load(path: Path, run: Run) -> nn.Module:
    try:
        with safe_open(path, framework="pt") as file:
            said: Mapping[str, str] = file.metadata() or {}
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - it is no mapping
    except SafetensorError as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    if NETWORK_KEY not in said:
        raise ConfigError(f"{path}: does not say what images its network takes: an older fedsam wrote it; make run {run.id} again")
    made_for, settings = json.loads(said[NETWORK_KEY]), dict[str, Any](run.config["model"])
    channels, height, width = made_for["image"]
    draws = architectures.initial_draws(run.config["seed"])  # for tensors that the file does not hold
    model = architectures.create(Component(**settings), (channels, height, width), made_for["classes"], draws)
    model.load_state_dict(state, assign=True)  # assigned, tensors keep the precision of the run
    return model.eval()
