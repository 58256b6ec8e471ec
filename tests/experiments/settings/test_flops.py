"""FLOPs of runs and of local optimizers against those that torch sees while a real convolutional network trains."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from flwr.app import Context, RecordDict
from torch.utils.flop_counter import FlopCounterMode

from clients import client_app as client_app
from clients.objective import Batch, Counted, NetworkObjective
from clients.optimizers import build
from clients.optimizers.base import Task
from experiments import run
from experiments.settings import step_cost
from fedsam.config import Component
from fedsam.data import augmentation, datasets
from fedsam.messages import codec
from fedsam.models import architectures
from fedsam.models.narrow import as_written
from fedsam.models.network import Network
from fedsam.system.cost import count_flops
from tests.clients.test_optimizer_contracts import COSTED, METHODS, SETTINGS
from tests.experiments.running.test_server_app import experiment

# Counted as full passes: backward passes to some of the tensors only, or several of one forward pass.
PARTIAL = {"esam", "focal_sam", "sam_on"}


def test_sam_costs_twice_what_sgd_does_and_as_much_as_torch_sees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained, seen = client_app.trained, []

    def counted(runtime: client_app.ClientRuntime, content: RecordDict, context: Context) -> codec.Update:
        with FlopCounterMode(display=False) as counter, as_written():
            update = trained(runtime, content, context)
        seen.append(counter.get_total_flops())
        return update

    monkeypatch.setattr(client_app, "trained", counted)
    totals = {}
    for name in ("sgd", "sam"):
        seen.clear()
        rows = run(experiment(tmp_path, client__optimizer={"name": name, "lr": 0.05}, measure__clients=False)).rows
        totals[name] = sum(row.flops for row in rows)
        assert totals[name] == sum(seen) > 0
    assert totals["sam"] / totals["sgd"] == pytest.approx(2.0, rel=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_a_convolutional_network_costs_what_is_declared_and_what_torch_sees(name: str) -> None:
    digits = datasets.load("digits")
    # A method of normalization layers needs some.
    model = Component(name="resnet20" if name == "sam_on" else "lenet5")
    network = Network(architectures.create(model, digits.image, digits.classes, torch.Generator().manual_seed(0)))
    optimizer = build(Component(name=name, lr=0.01, **COSTED.get(name, SETTINGS.get(name, {}))))
    x, y = augmentation.normalize(digits.train.x[:120], digits.mean, digits.std, torch.float32), digits.train.y[:120]
    batches = [Batch(*batch) for batch in zip(x.split(12), y.split(12), strict=True)]
    steps = step_cost.warmup_steps(optimizer) + (60 if model.name == "lenet5" else 4)
    task = Task(round=1, rounds=10, steps=20, class_counts=(12,) * 10, peek=lambda n: Batch(x[:n], y[:n]))
    counted, each = Counted(NetworkObjective(network)), count_flops(network, digits.image)
    with FlopCounterMode(display=False) as counter, as_written():
        several = [batches[step % len(batches)] for step in range(steps)]
        got, variables = step_cost.measured(optimizer, counted, network.initial.clone(), several, task)
    assert got == pytest.approx(step_cost.declared(type(optimizer)).evaluations(optimizer, variables))
    seen, total = counter.get_total_flops(), each.total(gradient_evaluations=counted.backward, forward_evaluations=counted.forward)
    assert 0.6 * total < seen < total if name in PARTIAL else seen == total
