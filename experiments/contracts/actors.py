"""What every component promises: one experiment gives one model, in this process, on one actor and on two."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from clients import optimizers
from experiments.contracts.base import Check, CheckedComponent, NotApplicable, expect
from experiments.settings.presets import PRESETS, expand
from fedsam.config import ConfigError, Experiment, parse
from fedsam.formatting import plural
from fedsam.overrides import override
from strategies.robust import FlowerRule

if TYPE_CHECKING:
    from experiments.running.grids import ActorGroup

# The setting that names a component of each kind.
KEYS = {
    "optimizer": "client.optimizer",
    "correction": "client.correction",
    "strategy": "server.strategy",
    "partition": "data.partition",
    "schedule": "client.schedule",
    "distribution": "simulate.speed",
    "model": "model",
    "dataset": "data.dataset",
    "sampler": "server.sampling",
}
# Two rounds of three of four clients, with two or three steps each.
SMALL: dict[str, Any] = {
    "rounds": 2,
    "data": {"dataset": "digits", "clients": 4, "examples": 80},
    "model": "lenet5",
    "client": {"batch_size": 8},
    "server": {"participation": 3},
}


def fitting(component: CheckedComponent, folder: Path) -> Experiment:
    """A small experiment with the component, and beside it the components of the first published method that goes with it.

    Raises:
        NotApplicable: No published method goes with it.
    """
    from experiments.settings.catalogue import resolved

    refusals = []
    for settings in _candidates(component):
        try:
            experiment = expand({"runs_dir": str(folder), **settings})
            resolved(experiment)
            _check_on_data(experiment)
        except ConfigError as error:
            refusals.append(str(error))
        else:
            return experiment
    raise NotApplicable(f"no published method goes with it; name what does by --with ({refusals[0]})")


def _candidates(component: CheckedComponent) -> Iterator[dict[str, Any]]:
    """Settings of experiments: the component in each published method, FedAvg first, on a network without and with normalization."""
    own: dict[str, Any] = {KEYS[component.kind]: {"name": component.name, **component.settings}, **component.beside}
    rule = component.make() if component.kind == "strategy" else None
    enough = {"data.clients": rule.min_updates() + 1, "server.participation": rule.min_updates()} if isinstance(rule, FlowerRule) else {}
    for model, method in product(("lenet5", "resnet20"), PRESETS):
        yield override(SMALL, {"model": model, "method": method, **enough, **own})


def _check_on_data(experiment: Experiment) -> None:
    """Raise `ConfigError` where the data cannot be partitioned so, or the optimizer cannot work on the network."""
    import torch

    from clients.runtime import network
    from fedsam.data import datasets
    from fedsam.data.federated import partition_examples

    dataset = datasets.load(experiment.data.dataset, experiment.data.root)
    partition_examples(experiment, dataset)
    made = network(experiment, dataset, torch.device("cpu"), torch.float32)
    optimizers.build(experiment.client.optimizer).check(made.layout)


def one_model(component: CheckedComponent) -> None:
    """The bytes of the final model, and what was simulated, are those of this process on one actor and on two."""
    from experiments.running.grids import actor_groups

    with TemporaryDirectory(prefix="fedsam-check-") as folder:
        experiment = fitting(component, Path(folder))
        inline, ray = (parse(override(experiment.dump(), {"compute": compute})) for compute in ({"grid": "inline"}, {"actors": 3}))
        with actor_groups([inline], 1) as (here,):
            first = _outcome(inline, here)
        with actor_groups([ray], 2) as groups:  # two actors, and the third
            others = {plural(group.size, "actor"): _outcome(ray, group) for group in groups}
    for where, outcome in others.items():
        expect(outcome.model == first.model, f"on {where} the model of this process, to the byte", "another model")
        expect(outcome.simulated == first.simulated, f"on {where} simulated seconds {first.simulated}", f"{outcome.simulated}")


@dataclass(frozen=True)
class _Outcome:
    """What a run must give wherever it runs: the bytes of its final model's tensors, by name, and its simulated seconds."""

    model: dict[str, bytes]
    simulated: list[float | None]


def _outcome(experiment: Experiment, group: ActorGroup) -> _Outcome:
    from experiments.callbacks.callback import Callback
    from experiments.running.server_app import run_on
    from experiments.settings.catalogue import check

    result = run_on(check(experiment), *group(experiment), Callback())
    tensors = {name: tensor.detach().numpy().tobytes() for name, tensor in result.model.state_dict().items()}
    return _Outcome(tensors, [row.simulated_seconds for row in result.rows])


ONE_MODEL = Check("one and two actors give the model of this process", one_model, starts_ray=True)
