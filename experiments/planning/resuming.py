"""Going on with a run by name: which settings may differ, and what is said of those that may not."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.callbacks.callback import Callback
from experiments.running.grids import DatasetCache, grids
from experiments.running.scheduler import Outcome, carry_out
from experiments.running.server_app import Continued, provenance_of
from experiments.settings import compatibility
from experiments.settings.catalogue import CheckedExperiment, check
from experiments.settings.presets import expand
from fedsam import plugins
from fedsam.config import ConfigError
from fedsam.grid.ray_start import WhenLost
from fedsam.overrides import flatten, override
from fedsam.results.resuming import differences
from fedsam.results.rows import Run
from fedsam.results.store import Results

EXTENDING = ("rounds", "budget")  # change no round that there is, where no component knows of them
INDIFFERENT = (
    "runs_dir",
    "name",
    "data.root",
    "checkpoint.every",
    "checkpoint.seconds",
    "callbacks",
)  # change no number, as most of `compute`
DECISIVE_COMPUTE = ("compute.precision", "compute.shard_size")


@dataclass(frozen=True)
class Request:
    """What a user asks for who has a run go on.

    Attributes:
        changes: Settings by dotted key, which are other than those of the run.
        allowed: Keys of settings, and of versions such as `torch`, that may differ although they change numbers.
        restart: Go on also if the run seems to be at work on another machine.
    """

    changes: Mapping[str, Any]
    allowed: Collection[str] = ()
    restart: bool = False


def resume(name: str, runs_dir: Path, request: Request, callback: Callback, lost: WhenLost | None = None) -> Outcome:
    """Have a run go on from its latest checkpoint, or from round 1 if it has none; how it ended.

    Args:
        lost: As of `ray_session`.

    Raises:
        ConfigError: No run, or more than one, has this id; the run has finished and is not extended; or what its numbers depend on differs
            from what it was begun with and is not `allowed`: the message says what.
        DataError: The dataset cannot be had.
        KeyboardInterrupt: The user stopped it.
    """
    plugins.refresh()
    with Results.open(runs_dir, create=False) as results:
        run = results.find_one(name)
        done = len(results.rounds(run.id, clients=False))
    checked = check(expand(override(run.config, {**request.changes, "runs_dir": str(runs_dir)})))
    experiment = checked.experiment
    _check_length(run, done, checked)
    callback.plan([experiment])
    callback.phase(f"loading {experiment.data.source.name}")
    cache = DatasetCache()
    versions = provenance_of(experiment, cache.get(experiment)).versions
    found = _changed(run, checked) | differences(run.versions, versions)
    refused = [f"{key}: {what}" for key, what in found.items() if key not in request.allowed]
    if refused:
        allow = " ".join(f"--allow-changed {shlex.quote(key)}" for key in found if key not in request.allowed)
        raise ConfigError("\n".join([*refused, f"run {run.id} would not be one experiment; {allow} goes on all the same, and notes it"]))
    with grids([experiment], cache, callback.phase, lost) as group:
        return carry_out(checked, group, callback, continued=Continued(run, tuple(found), request.restart))


def _check_length(run: Run, done: int, checked: CheckedExperiment) -> None:
    """Refuse fewer rounds than there are, and a run that has finished and is to be no longer. Raises `ConfigError`."""
    settings = checked.experiment
    if settings.rounds < done:
        raise ConfigError(f"rounds: {settings.rounds} is not allowed: run {run.id} has {done} rounds")
    longer = settings.rounds > run.config["rounds"] or settings.budget != run.config.get("budget")
    if run.status == "finished" and not longer:
        raise ConfigError(f"run: {run.id} has finished, with {done} rounds; --rounds with more extends it")


def _changed(run: Run, checked: CheckedExperiment) -> dict[str, str]:
    """What differs of the settings that numbers depend on, in words by key."""
    before, now = flatten(run.config), flatten(checked.settings)
    found = {}
    for key in dict.fromkeys([*before, *now]):
        old, new = _comparable(before.get(key)), _comparable(now.get(key))
        free = key in INDIFFERENT or (key.startswith("compute.") and key not in DECISIVE_COMPUTE)
        if old == new or free:
            continue
        user = compatibility.rounds_user(checked.experiment, checked.method) if key in EXTENDING else ""
        if user is not None:
            why = f", and {user} depends on it" if user else ""
            found[key] = f"run {run.id} has {old!r}, and here is {new!r}{why}"
    return found


def _comparable(value: Any) -> Any:
    """A value as JSON has it."""
    return [_comparable(item) for item in value] if isinstance(value, Sequence) and not isinstance(value, str) else value
