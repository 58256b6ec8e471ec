"""The objective: gradients of the mean or of a weighted sum, masks, statistics, counts, corrections."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from clients.corrections import NoCorrection, Proximal
from clients.corrections.base import Corrected
from clients.objective import Batch, Counted, NetworkObjective
from fedsam.config import ConfigError
from fedsam.models.network import Network


def objective(batchnorm: bool = False) -> NetworkObjective:
    torch.manual_seed(1)
    layers = [nn.Linear(3, 4), nn.BatchNorm1d(4)] if batchnorm else [nn.Linear(3, 4), nn.Tanh()]
    return NetworkObjective(Network(nn.Sequential(*layers, nn.Linear(4, 2)), dtype=torch.float64))


def batch(size: int = 6) -> Batch:
    generator = torch.Generator().manual_seed(2)
    return Batch(torch.randn(size, 3, generator=generator, dtype=torch.float64), torch.arange(size) % 2)


def test_gradient_is_that_of_the_mean_loss() -> None:
    target, b = objective(), batch()
    w = target.network.initial
    g, losses = target.grad(w, b)
    step = 1e-6 * torch.randn(target.layout.size, dtype=torch.float64)
    change = (target.losses(w + step, b).mean() - target.losses(w - step, b).mean()) / 2
    assert torch.allclose(g @ step, change, rtol=1e-6)
    assert torch.equal(losses, target.losses(w, b))
    assert losses.shape == (6,)


def test_weights_give_one_gradient_per_row_of_one_pass() -> None:
    target, b = objective(), batch()
    w = target.network.initial
    weights = torch.rand(2, 6, dtype=torch.float64)
    both, _ = target.grad(w, b, weights=weights)
    single = [target.grad(w, b, weights=row)[0] for row in weights]
    assert torch.allclose(both, torch.stack(single))
    mean, _ = target.grad(w, b, weights=torch.full((6,), 1 / 6, dtype=torch.float64))
    assert torch.allclose(mean, target.grad(w, b)[0])


def test_masked_tensors_have_no_gradient_and_change_no_other() -> None:
    target, b = objective(), batch()
    w = target.network.initial
    full, _ = target.grad(w, b)
    part, _ = target.grad(w, b, mask=[False, True, False, True])
    wanted = target.layout.per_tensor(torch.tensor([0, 1, 0, 1]))
    assert torch.equal(part, full * wanted)


def test_only_the_first_pass_of_a_step_moves_the_statistics() -> None:
    target, b = objective(batchnorm=True), batch()
    w = target.network.initial
    target.begin()
    target.grad(w, b)
    once = target.network.buffers
    target.grad(w + 0.1, b)
    target.losses(w, b)
    assert torch.equal(target.network.buffers, once)
    target.begin()
    target.losses(w, b)
    assert not torch.equal(target.network.buffers, once)


def test_label_smoothing_is_that_of_torch() -> None:
    target, b = objective(), batch()
    smooth = NetworkObjective(target.network, label_smoothing=0.1)
    w = target.network.initial
    expected = functional.cross_entropy(target.network(w, b.x), b.y, reduction="none", label_smoothing=0.1)
    assert torch.allclose(smooth.losses(w, b), expected)


def test_examples_are_counted() -> None:
    counted, b = Counted(objective()), batch()
    w = counted.inner.network.initial
    counted.grad(w, b)
    counted.grad(w, b[:4], weights=torch.rand(2, 4, dtype=torch.float64))
    counted.losses(w, b[1:])
    assert (counted.backward, counted.forward) == (6 + 8, 5)


def test_a_batch_is_indexed_by_example() -> None:
    b = batch()
    assert b[torch.tensor([0, 2])].y.tolist() == [0, 0]
    assert b[:2].size == 2


def test_corrections_touch_the_descent_direction_only() -> None:
    plain, b = objective(), batch()
    w = plain.network.initial
    anchor = w + 1
    corrected = Corrected(plain, Proximal(mu=0.5), {"w": anchor})
    assert torch.equal(corrected.grad(w, b)[0], plain.grad(w, b)[0])
    g, _ = plain.grad(w, b)
    assert torch.allclose(corrected.descent(w, g, lambda v: v), g + 0.5 * (w - anchor))
    assert torch.equal(Corrected(plain, NoCorrection(), {}).descent(w, g, lambda v: 2 * v), 2 * g)


def test_the_clip_sees_linear_terms_but_not_the_quadratic_one() -> None:
    plain = objective()
    w = plain.network.initial
    g, anchor = torch.zeros_like(w), torch.ones_like(w)
    direction = Corrected(plain, Proximal(mu=0.5), {"w": anchor}).descent(w, g, lambda v: 0.1 * v)
    assert torch.allclose(direction, -0.05 * anchor + 0.5 * w)


def test_no_proximal_term_is_no_correction() -> None:
    plain = objective()
    w = plain.network.initial
    g = torch.randn_like(w)
    assert torch.equal(Corrected(plain, Proximal(mu=0.0), {"w": w}).descent(w, g, lambda v: v), g)


class Staged(nn.Module):
    """Freezes its first layer, or thaws its last, when told to."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.first, self.middle, self.last = nn.Linear(3, 4), nn.Linear(4, 2), nn.Linear(2, 2).requires_grad_(False)
        self.change: tuple[nn.Module, bool] | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.change is not None:
            self.change[0].requires_grad_(self.change[1])
        scores: torch.Tensor = self.last(self.middle(torch.tanh(self.first(x))))
        return scores


def test_a_model_may_freeze_its_tensors_in_training_but_thaw_no_others() -> None:
    module = Staged().double()
    target, b = NetworkObjective(Network(module, dtype=torch.float64)), batch()
    w = target.network.initial
    target.grad(w, b)
    assert target.untouched() is None
    module.change = module.first, False
    g, _ = target.grad(w, b)
    untouched = target.untouched()
    assert untouched is not None
    assert untouched.nonzero()[:, 0].tolist() == list(range(16))
    assert not g[:16].any() and g[16:].any()
    module.change = module.last, True
    with pytest.raises(ConfigError, match="model: thaws frozen parameters in training"):
        target.grad(w, b)
