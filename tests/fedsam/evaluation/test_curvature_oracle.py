"""The Hessian's estimators against curvlinops, on LeNet-5 and real images, at weights that have been trained a little."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.sparse.linalg import eigsh
from torch import Tensor, nn

from fedsam.config import Component
from fedsam.data import augmentation, datasets
from fedsam.evaluation.hessian import hessian_top, hessian_trace
from fedsam.evaluation.loss import Loss, batch_sizes
from fedsam.models import architectures
from fedsam.models.flat import Layout

EXAMPLES, PROBES = 300, 100

# curvlinops' dependencies compile with torch.jit.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")]


@pytest.fixture(scope="module")
def trained(cifar_root: Path) -> tuple[Loss, Tensor, Any]:
    """The loss, a vector for it, and curvlinops' Hessian there."""
    from curvlinops import HessianLinearOperator

    cifar = datasets.load("cifar10", cifar_root)
    module = architectures.create(Component(name="lenet5"), cifar.image, cifar.classes, torch.Generator().manual_seed(0))
    x, y = cifar.train.x[:EXAMPLES], cifar.train.y[:EXAMPLES]
    prepare = partial(augmentation.normalize, mean=cifar.mean, std=cifar.std, dtype=torch.float32)
    loss = Loss(module, torch.empty(0), x, y, batch_sizes(EXAMPLES, 100), prepare=prepare)
    w = loss.layout.vector(dict(module.named_parameters()))
    for _ in range(40):
        w = w - 0.05 * loss.gradient(w)[0]
    with torch.no_grad():
        for name, view in Layout.of_module(module).views(w).items():
            module.get_parameter(name).copy_(view)
    batches = [(prepare(part), labels) for part, labels in zip(x.split(100), y.split(100), strict=True)]
    return loss, w, HessianLinearOperator(module, nn.CrossEntropyLoss(), list(module.parameters()), batches)


def test_the_top_eigenvalues_are_those_of_curvlinops(trained: tuple[Loss, Tensor, Any]) -> None:
    loss, w, oracle = trained
    want = eigsh(oracle.to_scipy(), k=3, which="LA", tol=1e-3)[0]
    top = hessian_top(loss, w, torch.Generator().manual_seed(0), k=3)
    assert top.converged
    assert top.values == pytest.approx(sorted(want, reverse=True), rel=0.02)


def test_the_trace_is_that_of_curvlinops(trained: tuple[Loss, Tensor, Any]) -> None:
    loss, w, oracle = trained
    signs = (torch.randint(2, (len(w), PROBES), generator=torch.Generator().manual_seed(1)) * 2 - 1).float()
    samples = (signs * (oracle @ signs)).sum(dim=0)
    trace = hessian_trace(loss, w, torch.Generator().manual_seed(0))
    error = math.hypot(trace.error, float(samples.std()) / math.sqrt(PROBES))
    assert abs(trace.value - float(samples.mean())) <= 2 * error
    assert error <= 0.2 * abs(trace.value)
    ours = [float(probe @ loss.hvp(w, probe)) for probe in signs.T[:3]]
    assert ours == pytest.approx(samples[:3].tolist(), rel=1e-3)
