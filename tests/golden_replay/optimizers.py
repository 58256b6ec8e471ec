"""Replays `golden-optimizer/1`: one local optimizer on one small network, step by step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields, replace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from clients.objective import Batch, NetworkObjective, Objective
from clients.optimizers import OPTIMIZERS, build
from clients.optimizers.base import LocalOptimizer, State, Task
from fedsam.config import Component
from fedsam.models.network import Network
from tests.golden_replay.replay import Case, Deviations, Unknown, deviation, each_step, module_of

# Golden names that are not the names of our fields. A list is dealt out over the fields, one number goes to each of them, and no
# field means that the case can only repeat what the method prescribes.
FIELDS: Mapping[str, tuple[str, ...]] = {
    "betas": ("beta1", "beta2"),
}
FIELDS_OF: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "aesam": {"T": ("total_steps",)},
    "gsam": {"rho": ("rho_max", "rho_min")},
    "fsam": {"lambda": ("beta",)},
    # The released class takes the flag and ignores it; classical Nesterov is the variant `nag`.
    "msam": {"nesterov": ()},
    # Says again how many radii there are; checked by `_multistep`.
    "multistep_sam": {"gradient_evaluations": ()},
}


def _asam(case: Case) -> dict[str, Any]:
    official = "official" in case["variant"] or ("elementwise" not in case["variant"] and "eta" in case["hyper"])
    return {"variant": "official" if official else "elementwise"}


def _multistep(case: Case) -> dict[str, Any]:
    hyper, variant = case["hyper"], "last" if "last" in case["variant"] else "average"
    radii = hyper.get("ascent_radii")
    if radii is None:
        return {"variant": variant}
    k = len(radii)
    if hyper.get("gradient_evaluations", k + 1) != k + 1:
        raise ValueError(f"hyper 'gradient_evaluations' contradicts the {k} ascent_radii")
    usual = [0.0] * k + [1.0] if variant == "last" else [0.0] + [1 / k] * k
    return {"variant": "explicit", "descent_weights": hyper.get("descent_weights", usual)}


# What the name of a case's variant says about the settings.
VARIANTS: Mapping[str, Callable[[Case], dict[str, Any]]] = {
    "sparse_sam": lambda case: {"leftover": "leftover" in case["variant"]},
    "asam": _asam,
    "msam": lambda case: {"form": "nag" if "nag" in case["variant"] else "msam"},
    "multistep_sam": _multistep,
}


def settings(method: str, hyper: Case) -> dict[str, Any]:
    """Golden hyperparameters under the names of the fields of `method`.

    Raises:
        ValueError: A hyperparameter is not known.
    """
    names = {f.name for f in fields(cast(Any, OPTIMIZERS[method]))}
    found: dict[str, Any] = {}
    for key, value in hyper.items():
        aliases = FIELDS_OF.get(method, {}).get(key, FIELDS.get(key))
        if aliases is None and key not in names:
            raise ValueError(f"hyper {key!r} is not known to {method}")
        aliases = (key,) if aliases is None else aliases
        dealt = isinstance(value, list) and len(aliases) > 1
        found.update(zip(aliases, value if dealt else [value] * len(aliases), strict=True))
    return found


@dataclass
class Recorded(Objective):
    """Remembers where and on which loss the last gradient was taken.

    Attributes:
        point: Its parameters (P,).
        loss: The scalar that was differentiated.
    """

    inner: NetworkObjective

    def __post_init__(self) -> None:
        self.layout = self.inner.layout
        self.point = self.loss = torch.zeros(())

    def begin(self) -> None:
        """As `Objective.begin`."""
        self.inner.begin()

    def aside(self, *, evaluation: bool = False) -> AbstractContextManager[None]:
        """As `Objective.aside`."""
        return self.inner.aside(evaluation=evaluation)

    def grad(self, w: Tensor, batch: Batch, *, mask: Sequence[bool] | None = None, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """As `Objective.grad`, remembered."""
        g, losses = self.inner.grad(w, batch, mask=mask, weights=weights)
        self.point, self.loss = w.clone(), losses.mean() if weights is None else (weights * losses).sum(dim=-1)
        return g, losses

    def losses(self, w: Tensor, batch: Batch) -> Tensor:
        """As `Objective.losses`."""
        return self.inner.losses(w, batch)


class Script:
    """Stands in for a numpy generator: gives the recorded draws of one step."""

    def __init__(self, recorded: Case, step: int) -> None:
        unknown = set(recorded) - {"uniform", "mask", "selected"}
        if unknown:
            raise ValueError(f"random decisions {sorted(unknown)} are not known")
        self.recorded = {name: values[step] for name, values in recorded.items()}
        self.drawn = False

    def random(self, size: int | None = None) -> Any:
        """The recorded draw: `uniform`, or one per tensor that is below any threshold where the tensor was selected."""
        self.drawn = True
        if size is None:
            if self.recorded.get("uniform") is None:
                raise AssertionError("a draw was made where the case records none")
            return self.recorded["uniform"]
        return np.array([0.0 if flag else 1.0 for flag in self.recorded["mask"]]).reshape(size)

    def finish(self) -> None:
        """Check that a recorded draw was made."""
        if self.recorded.get("uniform") is not None and not self.drawn:
            raise AssertionError("the case records a draw that was not made")


def _batch(recorded: Case) -> Batch:
    return Batch(torch.tensor(recorded["x"], dtype=torch.float64), torch.tensor(recorded["y"]))


def _objective(case: Case) -> NetworkObjective:
    loss = {"reduction": "mean", "label_smoothing": 0.0, **case["loss"]}
    if loss["type"] != "cross_entropy" or loss["reduction"] != "mean" or len(loss) > 3:
        raise ValueError(f"loss {case['loss']} is not known")
    network = Network(module_of(case["model"]), dtype=torch.float64)
    if "buffers_init" in case:
        network.buffers = torch.tensor(case["buffers_init"], dtype=torch.float64)
    return NetworkObjective(network, loss["label_smoothing"])


def _task(case: Case) -> Task:
    examples = _batch(case.get("fisher_set", case["batches"][0]))
    return Task(steps=case["steps"], peek=lambda n: Batch(examples.x[:n], examples.y[:n]))


def _given(method: str, state: State, recorded: Case, step: int) -> State:
    """The state with what the case prescribes for this step: Sparse SAM's mask, one flag per scalar."""
    mask = recorded.get("mask") if method == "sparse_sam" else None
    return {**state, "mask": torch.tensor(mask[step], dtype=torch.float64)} if mask else state


def replay(document: Case, case: Case) -> Deviations:
    """The deviations of one case.

    Raises:
        Unknown: The method is not in the table.
    """
    method = document["method"]
    if method not in OPTIMIZERS:
        raise Unknown(f"method {method!r} is not known")
    given = settings(method, case["hyper"])
    if method in VARIANTS:
        given |= VARIANTS[method](case)
    return _steps(method, build(Component(name=method, **given)), case)


def _steps(method: str, optimizer: LocalOptimizer, case: Case) -> Iterator[tuple[str, float]]:
    objective = Recorded(_objective(case))
    batches = [_batch(batch) for batch in case["batches"]]
    rtol, atol = case["tol"]["rtol"], case["tol"]["atol"]
    w = torch.tensor(case["init"], dtype=torch.float64)
    state = optimizer.init(w, _task(case))
    for t in range(case["steps"]):
        _check_events(case, t)
        optimizer = replace(optimizer, **settings(method, {name: values[t] for name, values in case.get("per_step", {}).items()}))
        script = Script(case.get("random", {}), t)
        before, batch = w, batches[case["batch_of_step"][t]]
        state = _given(method, state, case.get("random", {}), t)
        w, state, losses = optimizer.step(before, state, objective, batch, cast(np.random.Generator, script))
        script.finish()
        values = {"params": w, "loss": losses.mean(), "loss_descent": objective.loss, "buffers": objective.inner.network.buffers}
        values["perturbation_norm"] = torch.linalg.vector_norm(objective.point - before)
        if "stored_params" in case["expected"]:
            values["stored_params"] = cast(Any, optimizer).displaced(w, state)
        for name, value in values.items():
            for want in each_step(case["expected"], name, t):
                yield f"{name} after step {t + 1}", deviation(value, want, rtol, atol)
    _check_events(case, case["steps"])


def _check_events(case: Case, step: int) -> None:
    for event in case.get("events", []):
        # Between steps our weights are never displaced: there is nothing to remove, and nothing to apply again.
        if event["before_step"] == step and event["do"] != "unperturb_reperturb":
            raise ValueError(f"event {event['do']!r} is not known")
