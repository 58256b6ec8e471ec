"""Contracts: ours keep them, and every check fails on a component that is broken on purpose."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from clients.corrections.base import Correction, Payload
from clients.optimizers.base import StepPlan, ball
from clients.optimizers.cost import Formula, StepCost
from clients.optimizers.sam import SAM
from clients.optimizers.sgd import SGD
from experiments import contracts
from experiments.contracts import KINDS, CheckedComponent
from experiments.contracts.actors import ONE_MODEL, fitting
from experiments.running import grids
from experiments.running.grids import ActorGroup, DatasetCache
from fedsam.config import ConfigError, Experiment
from fedsam.data.datasets import Dataset, Images
from fedsam.data.partition import iid
from strategies.base import ServerRule
from strategies.fedavg import FedAvg

GIVEN: dict[tuple[str, str], dict[str, Any]] = {
    ("distribution", "constant"): {"value": 2.0},
    ("distribution", "uniform"): {"low": 1.0, "high": 2.0},
    ("distribution", "lognormal"): {"median": 1.0, "sigma": 1.0},
    ("distribution", "tiers"): {"values": (1.0, 2.0)},
}
ELSEWHERE = {"optimizer", "dataset"}  # tests/clients/test_optimizer_contracts.py; files that are not here
OURS = [(kind, name) for kind, known in KINDS.items() if kind not in ELSEWHERE for name in known.registry] + [("dataset", "digits")]


def findings(component: CheckedComponent) -> dict[str, tuple[str, str]]:
    """Verdict and text of each check that needs no Ray, by title."""
    found = {check.title: contracts.examine(component, check) for check in contracts.checks(component) if not check.starts_ray}
    return {title: (finding.verdict, finding.text) for title, finding in found.items()}


@pytest.mark.parametrize(("kind", "name"), OURS)
def test_ours_keep_the_contract(kind: str, name: str) -> None:
    found = findings(contracts.find(name, kind, GIVEN.get((kind, name))))
    assert {title: text for title, (verdict, text) in found.items() if verdict != "ok"} == {}


class Mutating(SGD):
    """Moves the weights that it is given."""

    def descend(self, w: Tensor, state: Any, q: Tensor) -> Any:
        return w.sub_(self.lr * q), state


class MutatingState(SGD):
    """Changes the state that it is given."""

    def init(self, w: Tensor, task: Any) -> Any:
        return {"sum": torch.zeros_like(w)}

    def descend(self, w: Tensor, state: Any, q: Tensor) -> Any:
        state["sum"].add_(q)
        return w - self.lr * state["sum"], state


class Unseeded(SGD):
    """Draws from torch's global generator."""

    def descend(self, w: Tensor, state: Any, q: Tensor) -> Any:
        return super().descend(w, state, q * (1 + 0.1 * torch.rand(())))


class UnseededNumPy(SGD):
    """Draws from NumPy's global generator."""

    def plan(self, state: Any, rng: np.random.Generator) -> StepPlan:
        return StepPlan("step" if np.random.random() < 2 else "plain")


class UnseededPython(SGD):
    """Draws from Python's global generator."""

    def plan(self, state: Any, rng: np.random.Generator) -> StepPlan:
        return StepPlan(random.choice(["step", "plain"]))


@dataclass(frozen=True, kw_only=True)
class NotReduced(SAM):
    """Ignores rho 0."""

    def gradient(self, w: Tensor, state: Any, step: Any) -> Any:
        g, losses = step.grad(w)
        g, _ = step.grad(w + ball(g, self.rho + 0.01, 1e-12))
        return g, losses, state


class Undeclared(SAM):
    """Says neither what it costs nor what it reduces to."""

    reduces_to_base = None


class Cheap(SAM):
    """Costs more than it says."""

    cost = StepCost()


class Nonsense(SAM):
    """Says what no formula is."""

    cost = StepCost(Formula("none", lambda self, _: self.none), 2)


@dataclass(frozen=True, kw_only=True)
class KeepsToItself(SGD):
    """Has a momentum on the instance."""

    memory: dict[str, Tensor] = field(default_factory=dict)

    def descend(self, w: Tensor, state: Any, q: Tensor) -> Any:
        self.memory["v"] = 0.5 * self.memory.get("v", torch.zeros_like(q)) + q
        return w - self.lr * self.memory["v"], state


class Ascending(SGD):
    """Goes the wrong way."""

    def descend(self, w: Tensor, state: Any, q: Tensor) -> Any:
        return super().descend(w, state, -q)


class FixedRate(SGD):
    """Ignores its learning rate."""

    def descend(self, w: Tensor, state: Any, q: Tensor) -> Any:
        return SGD.descend(replace(self, lr=0.05), w, state, q)


class Incomplete(SGD):
    """Forgets the losses."""

    def step(self, *arguments: Any) -> Any:
        return super().step(*arguments)[:2]


class MeanLoss(SGD):
    """Gives one loss for the batch."""

    def gradient(self, *arguments: Any) -> Any:
        g, losses, state = super().gradient(*arguments)
        return g, losses.mean(), state


class OtherLosses(SGD):
    """Gives losses that no pass gave."""

    def gradient(self, *arguments: Any) -> Any:
        g, losses, state = super().gradient(*arguments)
        return g, losses / 2, state


class Unsendable(SGD):
    """Has a state that cannot travel."""

    def init(self, w: Tensor, task: Any) -> Any:
        return {"layers": {"a": w}}


class Failing(SGD):
    """Raises."""

    def gradient(self, *arguments: Any) -> Any:
        raise ZeroDivisionError("no gradient today")


class Undecorated(SGD):
    """Has a hyperparameter, and no decorator."""

    radius: float = 0.1


class Silent(Correction):
    """Declares what it does not send."""

    @property
    def sends(self) -> tuple[str, ...]:
        return ("population.c",)


class Forgetful(Correction):
    """Declares what it does not keep."""

    @property
    def keeps(self) -> tuple[str, ...]:
        return ("c",)

    def finish(self, outcome: Any, server_payload: Any, client_state: Any) -> Any:
        return {}, Payload()


class Greedy(Correction):
    """Reads what it has not asked for."""

    def start(self, w: Tensor, server_payload: Any, client_state: Any) -> Any:
        return {"c": server_payload["c"]}


class MutatingCorrection(Correction):
    """Changes what it keeps, and the gradient."""

    @property
    def keeps(self) -> tuple[str, ...]:
        return ("c",)

    def linear(self, g: Tensor, terms: Any) -> Tensor:
        return g.add_(1)

    def finish(self, outcome: Any, server_payload: Any, client_state: Any) -> Any:
        client_state["c"].add_(outcome.delta)
        return client_state, Payload()


class Concave(Correction):
    """Has a penalty that pushes away."""

    @property
    def kappa(self) -> float:
        return -1.0


class Noisy(Correction):
    """Adds noise of its own."""

    def linear(self, g: Tensor, terms: Any) -> Tensor:
        return g + torch.from_numpy(np.random.standard_normal(len(g)))


class MutatingRule(FedAvg):
    """Moves the global vector that it is given."""

    def server_step(self, w: Tensor, state: Any, aggregate: Any) -> Any:
        return w.add_(aggregate.delta), state


class Backward(FedAvg):
    """Takes the delta for a gradient."""

    def server_step(self, w: Tensor, state: Any, aggregate: Any) -> Any:
        return super().server_step(w, state, replace(aggregate, delta=-aggregate.delta))


class Restless(FedAvg):
    """Decays, whatever clients do."""

    def server_step(self, w: Tensor, state: Any, aggregate: Any) -> Any:
        w, state = super().server_step(w, state, aggregate)
        return 0.99 * w, state


class Speechless(FedAvg):
    """Sends nothing to start from."""

    def broadcast(self, w: Tensor, state: Any) -> Any:
        return {"v": w}


@dataclass(frozen=True, kw_only=True)
class RemembersRounds(ServerRule):
    """Counts rounds on the instance."""

    rounds: list[int] = field(default_factory=list)

    def server_step(self, w: Tensor, state: Any, aggregate: Any) -> Any:
        self.rounds.append(aggregate.round)
        return w + aggregate.delta / len(self.rounds), state


def dealt_twice(labels: Any, num_clients: int, rng: Any) -> Any:
    """Clients share example 3."""
    return [np.union1d(part, [3]) for part in iid(labels, num_clients, rng)]


def left_over(labels: Any, num_clients: int, rng: Any) -> Any:
    """The last examples are nobody's."""
    return iid(labels[:-5], num_clients, rng)


def unsorted(labels: Any, num_clients: int, rng: Any) -> Any:
    """Indices from the back."""
    return [part[::-1] for part in iid(labels, num_clients, rng)]


def unseeded_deal(labels: Any, num_clients: int, rng: Any) -> Any:
    """Draws from NumPy's global generator."""
    return iid(labels, num_clients, np.random.default_rng(np.random.randint(1000)))


def relabels(labels: Any, num_clients: int, rng: Any) -> Any:
    """Shuffles the labels themselves."""
    rng.shuffle(labels)
    return iid(labels, num_clients, rng)


def empty_handed(labels: Any, num_clients: int, rng: Any) -> Any:
    """The first client gets all, the others nothing."""
    return [np.arange(len(labels)), *[np.arange(0)] * (num_clients - 1)]


def negative(round: int, rounds: int) -> float:
    """Falls below 0."""
    return 1 - round / 5


def idle(round: int, rounds: int) -> float:
    """Never moves."""
    return 0.0


def drifting(round: int, rounds: int) -> float:
    """Draws a rate."""
    return random.random()


def standing(rng: np.random.Generator) -> float:
    """Some clients have no speed."""
    return float(rng.integers(2))


def unseeded_speed(rng: np.random.Generator) -> float:
    """Draws from elsewhere."""
    return 1 + random.random()


def same_client(round: int, clients: int, cohort: int, rng: np.random.Generator) -> Any:
    """One client, again and again."""
    return [0] * cohort


def three(round: int, clients: int, cohort: int, rng: np.random.Generator) -> Any:
    """The first three, however many there are."""
    return [0, 1, 2]


def unseeded_cohort(round: int, clients: int, cohort: int, rng: np.random.Generator) -> Any:
    """Draws from elsewhere."""
    return random.sample(range(clients), cohort)


class Idle(nn.Module):
    """Has a layer that nothing passes."""

    def __init__(self, image: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        self.used, self.unused = nn.Linear(int(np.prod(image)), classes), nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.used(x.flatten(1))


def grey_only(image: tuple[int, int, int], classes: int) -> nn.Module:
    """Works for 32 x 32 grey pixels."""
    return nn.Sequential(nn.Flatten(), nn.Linear(1024, classes))


def unseeded_weights(image: tuple[int, int, int], classes: int) -> nn.Module:
    """Draws its weights from a generator that no seed reaches."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(int(np.prod(image)), classes))
    nn.init.constant_(network[1].weight, np.random.default_rng().random())
    return network


class Contrast(nn.Module):
    """Looks at the whole batch, in evaluation too."""

    def __init__(self, image: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        self.fc = nn.Linear(int(np.prod(image)), classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x.flatten(1) - x.mean())


class AlwaysDropout(Contrast):
    """Drops in evaluation, too."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(self.fc(x.flatten(1)), 0.5, training=True)


def pictures(**changes: Any) -> Dataset:
    """A dataset of noise that is as it should be, but for `changes`."""
    x, y = torch.arange(6 * 64).view(6, 1, 8, 8).to(torch.uint8), torch.tensor([0, 1, 2, 0, 1, 2])
    return replace(Dataset("noise", Images(x, y), Images(x, y), 3, (0.5,), (0.3,), ()), **changes)


def missing_class() -> Dataset:
    """Has a label that is no class."""
    return pictures(classes=2)


def float_images() -> Dataset:
    """Has images that are no bytes."""
    made = pictures()
    return replace(made, test=replace(made.test, x=made.test.x.float()))


def flat_scale() -> Dataset:
    """Divides by 0."""
    return pictures(std=(0.0,))


def unseeded_pictures() -> Dataset:
    """Draws from NumPy's global generator."""
    return pictures(test=Images(torch.from_numpy(np.random.randint(255, size=(6, 1, 8, 8)).astype(np.uint8)), torch.tensor([0, 1] * 3)))


STEP = "a step gives weights, a state and a loss per example"
BASE = "with `reduces_to_base` it is its base optimizer"
INPUTS = "its inputs stay as they are"
SEED = "the same seed gives the same result"
MINIMUM = "it finds the minimum of a quadratic"
RATE = "a schedule can scale its learning rate"
KEPT = "its state can be kept for the client's next round"
COST = "it costs what it declares"
KEEPS, SENDS = "a client keeps what `keeps` says", "a client sends what `sends` says"
DIRECTION, GRADIENT = "it gives a direction and a curvature", "the gradient and the round's terms stay as they are"
START, STILL, FORWARD = "it sends the clients' start, and vectors", "it stands still when no client moves", "it goes where the clients went"
EVALUATION = "evaluation is repeatable and changes no statistics"

# CheckedComponent -> the checks that fail, each with words of its sentence.
BROKEN: dict[str, dict[str, str]] = {
    "Mutating": {INPUTS: "found w that differ by up to"},
    "MutatingState": {INPUTS: "state['sum'] that differ by up to", MINIMUM: "a loss below 0.001", KEPT: "`resume`'s inputs to stay"},
    "Unseeded": {SEED: "torch's global generator was used", KEPT: "weights that differ by up to"},
    "UnseededNumPy": {SEED: "NumPy's global generator was used"},
    "UnseededPython": {SEED: "the global generator of Python's random was used"},
    "NotReduced": {BASE: "expected with rho = 0.0 the weights of base sgd, found weights that differ by up to 0.000467 after step 1"},
    "Cheap": {COST: "expected 1 backward passes per example and step, as its `cost` says, found 2"},
    "Nonsense": {COST: "found 'none' and '2' ('Nonsense' object has no attribute 'none')"},
    "KeepsToItself": {SEED: "found weights that differ by up to", KEPT: "weights that differ by up to"},
    "Ascending": {MINIMUM: "expected a loss below 0.001 after 200 steps"},
    "FixedRate": {RATE: "found the same step"},
    "Incomplete": {STEP: "found 2 values", **dict.fromkeys((INPUTS, SEED, MINIMUM, RATE, KEPT), "not enough values")},
    "MeanLoss": {STEP: "tensor of shape (8,) without a graph, found torch.float64 of shape ()"},
    "OtherLosses": {STEP: "expected the losses of step 1 to be those of its passes, found others"},
    "Unsendable": {KEPT: "holds tensors, numbers, texts and lists of these, not dict"},
    "Failing": dict.fromkeys((STEP, INPUTS, SEED, MINIMUM, RATE, KEPT), "no gradient today (test_contracts.py, line "),
    "Silent": {SENDS: "expected what `sends` names (population.c), found nothing"},
    "Forgetful": {KEEPS: "expected `finish` to keep what `keeps` names (c), found nothing"},
    "Greedy": dict.fromkeys((KEEPS, SENDS, DIRECTION, INPUTS, GRADIENT, "the same round gives the same result"), "KeyError: 'c'"),
    "MutatingCorrection": {INPUTS: "client_state['c'] that differ by up to", GRADIENT: "g that differ by up to 1"},
    "Concave": {DIRECTION: "expected `kappa` to be a finite number, >= 0, found -1.0"},
    "Noisy": {"the same round gives the same result": "NumPy's global generator was used"},
    "MutatingRule": {INPUTS: "found w that differ by up to"},
    "Backward": {FORWARD: "found -1"},
    "Restless": {STILL: "found a move of up to"},
    "Speechless": {START: "as 'w' before the first round, found v", STILL: "KeyError: 'w'"},
    "RemembersRounds": {"the same rounds give the same result": "vectors[0] that differ by up to"},
    "dealt_twice": {"no example is dealt twice": "found 1 dealt more than once: 3"},
    "left_over": {"every example is dealt": "found 5 left over: 445, 446, 447, 448, 449"},
    "unsorted": {"it gives one sorted array of indices per client": "client 0's indices in ascending order"},
    "unseeded_deal": {SEED: "NumPy's global generator was used"},
    "relabels": {"the labels stay as they are": "labels that differ by up to 9"},
    "empty_handed": {
        "every client gets some": "found sizes 450, 0, 0, 0, 0, 0, 0",
        "more clients than examples are refused": "found sizes [5, 0, 0, 0, 0, 0]",
    },
    "negative": {"it gives a finite number >= 0 in every round": "for round 6 of 10, found -0.19999999999999996"},
    "idle": {"it is above 0 in some round": "found 0 in all of them"},
    "drifting": {"the same round gives the same factor": "the global generator of Python's random was used"},
    "standing": {"it gives a finite number > 0": "found 0.0"},
    "unseeded_speed": {SEED: "the global generator of Python's random was used"},
    "same_client": {"a cohort is different clients, at least one": "found 0, 0, 0"},
    "three": {"it works for one client, and for all": "expected some of 1 clients, 1 being asked for, found 0, 1, 2"},
    "unseeded_cohort": {SEED: "the global generator of Python's random was used"},
    "Idle": {"a gradient reaches every trainable parameter": "found none for unused.weight, unused.bias"},
    "grey_only": {"it scores grey and colour images": "shapes cannot be multiplied"},
    "unseeded_weights": {"the seed decides its initial weights": "the same initial weights from one seed"},
    "Contrast": {EVALUATION: "an image's scores in evaluation whatever images are beside it"},
    "missing_class": {"labels are its classes": "expected train labels from 0 to 1 (classes is 2), found 2"},
    "float_images": {"images are bytes of one size": "test.x to be uint8 (N, C, H, W), found torch.float32"},
    "flat_scale": {"mean and std are per channel, augmentations are known": "above 0, found (0.0,)"},
    "unseeded_pictures": {"it is the same every time": "NumPy's global generator was used"},
    "AlwaysDropout": {EVALUATION: "the same scores for the same images", "it is a function of its parameters": "the same scores back"},
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_component_fails(name: str) -> None:
    found = findings(contracts.find(f"{__name__}:{name}"))
    failed = {title: text for title, (verdict, text) in found.items() if verdict == "failed"}
    assert failed.keys() == BROKEN[name].keys(), failed
    assert all(words in failed[title] for title, words in BROKEN[name].items()), failed


def test_what_is_not_declared_is_no_failure() -> None:
    found = findings(contracts.find(f"{__name__}:Undeclared"))
    assert {title: verdict for title, (verdict, _) in found.items() if verdict != "ok"} == dict.fromkeys((BASE, COST), "not declared")
    assert "no `cost` of its own, such as StepCost(backward=2)" in found[COST][1]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ball", r"neither its base class nor its first parameters tell its kind. Say --kind"),
        ("Nowhere", r"has no Nowhere"),
        ("Undecorated", r"must be a dataclass"),
    ],
)
def test_what_cannot_be_checked(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        contracts.find(f"{__name__}:{name}")


@dataclass(frozen=True, kw_only=True)
class Counting(SGD):
    """Goes further in every run of its process."""

    count: ClassVar[list[int]] = []

    def descend(self, w: Tensor, state: Any, q: Tensor) -> Any:
        self.count.append(1)
        return super().descend(w, state, q * (1 + 0.001 * len(self.count)))


class Crews:
    """Stands in for Ray: every group is this process."""

    def __init__(self, experiments: Sequence[Experiment], parallel: int) -> None:
        self.parallel = parallel

    def __enter__(self) -> list[ActorGroup]:
        made = [ActorGroup(DatasetCache()) for _ in range(self.parallel)]
        for number, group in enumerate(made):
            group.size = self.parallel - number
        return made

    def __exit__(self, *error: object) -> None:
        """Nothing to end."""


@pytest.mark.parametrize("name", ["Cheap", "Counting"])
def test_runs_that_differ_are_noticed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grids, "actor_groups", Crews)
    finding = contracts.examine(contracts.find(f"{__name__}:{name}"), ONE_MODEL)
    if name == "Cheap":
        assert finding.verdict == "ok", finding.text
    else:
        assert finding.verdict == "failed"
        assert finding.text == "expected on 2 actors the model of this process, to the byte, found another model"


METHOD_PARTS = [(kind, name) for kind in ("optimizer", "correction", "strategy") for name in KINDS[kind].registry]


@pytest.mark.parametrize(("kind", "name"), METHOD_PARTS)
def test_every_part_of_a_method_finds_others_that_go_with_it(kind: str, name: str, tmp_path: Path) -> None:
    experiment = fitting(contracts.find(name, kind), tmp_path)
    assert name in {experiment.client.optimizer.name, experiment.client.correction.name, experiment.server.strategy.name}


def test_what_goes_with_nothing_is_left_out() -> None:
    checked = contracts.find("scaffold", beside={"client.correction": "none"})
    finding = contracts.examine(checked, ONE_MODEL)
    assert finding.verdict == "left out"
    assert "name what does by --with (server.strategy: 'scaffold' is not allowed here" in finding.text
    finding = contracts.examine(contracts.find("natural"), ONE_MODEL)  # the digits are nobody's
    assert finding.verdict == "left out"
    assert "data.partition" in finding.text


def test_names_of_ours() -> None:
    assert contracts.find("sam").kind == "optimizer"
    assert contracts.find("fedavg").kind == "strategy"
    with pytest.raises(ConfigError, match=r"'constant' is a schedule and a distribution: say --kind"):
        contracts.find("constant")
    with pytest.raises(ConfigError, match=r"'sma' is not known, did you mean 'swa'\?"):
        contracts.find("sma")
    with pytest.raises(ConfigError, match=r"--kind: 'modle' is not known, did you mean 'model'\?"):
        contracts.find("sam", "modle")
    with pytest.raises(ConfigError, match=r"sam.rho: -1 is not allowed"):
        contracts.find("sam", settings={"rho": -1})
