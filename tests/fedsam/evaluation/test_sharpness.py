"""Losses of a vector, the Hessian's spectrum, and sharpness: against dense computations, formulas and each other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Any

import pytest
import torch
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor, nn

from fedsam.config import Component, ConfigError
from fedsam.data import augmentation, datasets
from fedsam.evaluation import hessian, sharpness
from fedsam.evaluation.hessian import hessian_density, hessian_top, hessian_trace
from fedsam.evaluation.loss import CountedLoss, Loss, batch_sizes, normalized_logits
from fedsam.evaluation.sharpness import SharpnessEstimate, sharpness_1step, sharpness_avg, sharpness_max
from fedsam.models import architectures
from fedsam.models.flat import Layout

EXAMPLES = 12
WHOLE = (EXAMPLES,)  # one batch, for tests that pass through the network very often: batches do not matter (see below)

Measure = Callable[[Loss, Tensor], Any]


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def same(x: Tensor) -> Tensor:
    return x


def small(sizes: tuple[int, ...] = (5, 5, 2)) -> tuple[Loss, Tensor]:
    """A network with running statistics in float64, and a vector for it whose first bias is 0."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Dropout(0.5), nn.Linear(4, 3)).double()
    x, y = torch.randn(EXAMPLES, 3, dtype=torch.float64), torch.arange(EXAMPLES) % 3
    buffers = torch.tensor([0.1, -0.2, 0.3, 0.0, 1.5, 0.8, 1.0, 1.2], dtype=torch.float64)
    w = Layout.of_module(module).vector(dict(module.named_parameters()))
    w[12] = 0.0
    return Loss(module, buffers, x, y, sizes, prepare=same), w


def dense(loss: Loss, w: Tensor) -> Tensor:
    """The Hessian (P, P) by torch's own second derivative of a loss written out here."""

    def value(v: Tensor) -> Tensor:
        t = loss.layout.views(v)
        mean, variance = loss.buffers.chunk(2)
        hidden = loss.x @ t["0.weight"].T + t["0.bias"]
        hidden = torch.tanh((hidden - mean) / torch.sqrt(variance + 1e-5) * t["1.weight"] + t["1.bias"])
        logits = hidden @ t["4.weight"].T + t["4.bias"]
        return -logits.log_softmax(dim=1)[torch.arange(EXAMPLES), loss.y].mean()

    hessian_matrix: Tensor = torch.autograd.functional.hessian(value, w)
    return hessian_matrix


MEASURES: dict[str, Measure] = {
    "value": lambda loss, w: loss.value(w),
    "gradient": lambda loss, w: loss.gradient(w),
    "hvp": lambda loss, w: loss.hvp(w, w),
    "hessian_top": lambda loss, w: hessian_top(loss, w, rng(), k=2),
    "hessian_trace": lambda loss, w: hessian_trace(loss, w, rng(), probes=3),
    "hessian_density": lambda loss, w: hessian_density(loss, w, rng(), probes=2, steps=3),
    "sharpness_max": lambda loss, w: sharpness_max(loss, w, rho=0.1, m=5, adaptive=True),
    "sharpness_1step": lambda loss, w: sharpness_1step(loss, w, rho=0.1),
    "sharpness_avg": lambda loss, w: sharpness_avg(loss, w, rng(), rho=0.1, draws=3),
    "slice_1d": lambda loss, w: sharpness.slice_1d(loss, w, w, (-1.0, 0.0, 1.0)),
    "slice_2d": lambda loss, w: sharpness.slice_2d(loss, w, w, w, (0.0, 1.0)),
}


@pytest.mark.parametrize("name", MEASURES)
def test_nothing_is_touched(name: str) -> None:
    loss, w = small()
    module = loss.module
    assert isinstance(module, nn.Sequential) and isinstance(module[0], nn.Linear)
    module.train()
    module[0].eval()  # a mode of its own must survive
    module[0].weight.grad = torch.ones(4, 3, dtype=torch.float64)
    state, before, buffers = {k: v.clone() for k, v in module.state_dict().items()}, w.clone(), loss.buffers.clone()
    MEASURES[name](loss, w)
    assert all(torch.equal(value, state[key]) for key, value in module.state_dict().items())
    assert [layer.training for layer in module] == [False, True, True, True, True]
    assert all(p.requires_grad for p in module.parameters())
    assert torch.equal(module[0].weight.grad, torch.ones(4, 3, dtype=torch.float64))
    assert [p.grad is None for p in module.parameters()] == [False, *[True] * 5]
    assert torch.equal(w, before) and not w.requires_grad
    assert torch.equal(loss.buffers, buffers)


def test_the_mode_is_restored_after_an_error() -> None:
    loss, w = small()
    loss.module.train()
    with pytest.raises(RuntimeError):
        replace(loss, prepare=lambda x: x[:, :1]).value(w)
    assert all(layer.training for layer in loss.module.modules())


@pytest.mark.parametrize("name", MEASURES)
def test_measured_inside_no_grad_too(name: str) -> None:
    loss, w = small()
    want = MEASURES[name](loss, w)
    with torch.no_grad():
        assert repr(MEASURES[name](loss, w)) == repr(want)


@pytest.mark.parametrize("sizes", [(12,), (8, 4), (1,) * 12, (2, 9, 1)])
def test_batches_do_not_matter(sizes: tuple[int, ...]) -> None:
    (loss, w), (other, _) = small(), small(sizes)
    v = torch.randn(len(w), generator=rng(), dtype=torch.float64)
    assert loss.value(w) == pytest.approx(other.value(w), rel=1e-12)
    assert torch.allclose(loss.gradient(w)[0], other.gradient(w)[0], rtol=1e-10, atol=1e-14)
    assert torch.allclose(loss.hvp(w, v), other.hvp(w, v), rtol=1e-10, atol=1e-14)
    assert hessian_top(loss, w, rng(), k=1).values[0] == pytest.approx(hessian_top(other, w, rng(), k=1).values[0], rel=1e-9)


@pytest.mark.parametrize("sizes", [(), (5, 5), (12, 0)])
def test_batches_must_cover_the_examples(sizes: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="sizes"):
        small(sizes)


@pytest.mark.parametrize("name", MEASURES)
def test_cost_is_what_passes_through_the_module(name: str) -> None:
    loss, w = small()
    passed: list[int] = []
    loss.module.register_forward_hook(lambda module, inputs, output: passed.append(len(output)))
    result = MEASURES[name](loss, w)
    if name.startswith("hessian"):
        # One forward pass for two backward passes.
        assert result.cost == (2 * sum(passed), 0)
    elif name not in ("value", "gradient", "hvp"):
        assert sum(result.cost) == sum(passed)


def test_costs_of_each_measure() -> None:
    loss, w = small()
    assert sharpness_1step(loss, w, rho=0.1).cost == (EXAMPLES, EXAMPLES)
    assert sharpness_max(loss, w, rho=0.1, m=5, iterations=4).cost == (4 * EXAMPLES, 5 * EXAMPLES)
    assert sharpness_avg(loss, w, rng(), rho=0.1, draws=3).cost == (0, 4 * EXAMPLES)
    assert hessian_trace(loss, w, rng(), probes=3).cost == (2 * 3 * EXAMPLES, 0)
    counted = CountedLoss(loss)
    counted.hvp(w, w)
    counted.gradient(w)
    counted.value(w)
    assert counted.cost == (3 * EXAMPLES, EXAMPLES)


def test_products_are_those_of_the_dense_hessian() -> None:
    loss, w = small()
    product = torch.stack([loss.hvp(w, unit) for unit in torch.eye(len(w), dtype=torch.float64)])
    assert torch.allclose(product, dense(loss, w), atol=1e-12)


def test_top_eigenvalues_are_those_of_the_dense_hessian() -> None:
    loss, w = small()
    values = torch.linalg.eigvalsh(dense(loss, w)).flip(0)
    top = hessian_top(loss, w, rng())
    assert top.converged and 20 <= top.steps <= len(w)
    for got, error, want in zip(top.values, top.errors, values[:5].tolist(), strict=True):
        assert abs(got - want) <= max(error, 1e-10)
        assert error <= 1e-3 * abs(got)
    assert abs(top.smallest - float(values[-1])) <= max(top.smallest_error, 1e-10)
    assert hessian_top(loss, w, rng(3), tol=1e-12).values == pytest.approx(values[:5].tolist(), rel=1e-9)


def test_more_steps_are_made_until_the_residuals_are_small_enough() -> None:
    loss, w = small()
    loose, tight = (hessian_top(loss, w, rng(), k=2, tol=tol) for tol in (0.1, 1e-10))
    assert loose.steps == 20 < tight.steps
    assert tight.converged
    unfinished = hessian_top(loss, w, rng(), k=2, tol=1e-14, max_steps=21)
    assert unfinished.steps == 21 and not unfinished.converged


def test_top_eigenvalues_of_a_relu_network_in_float32_agree_with_arpack() -> None:
    digits = datasets.load("digits")
    module = architectures.create(Component(name="lenet5"), digits.image, digits.classes, rng())
    prepare = partial(augmentation.normalize, mean=digits.mean, std=digits.std)
    x, y = digits.train.x[:12], digits.train.y[:12]
    w = Layout.of_module(module).vector(dict(module.named_parameters()))
    loss = Loss(module, torch.empty(0), x, y, batch_sizes(12, 5), prepare=partial(prepare, dtype=torch.float32))
    top = hessian_top(loss, w, rng(), k=3)
    assert top.converged

    exact, point = replace(loss, prepare=partial(prepare, dtype=torch.float64)), w.double()
    operator = LinearOperator((len(w), len(w)), matvec=lambda v: exact.hvp(point, torch.as_tensor(v).ravel()).numpy(), dtype="float64")
    oracle = eigsh(operator, k=3, which="LA", v0=torch.ones(len(w), dtype=torch.float64).numpy(), tol=1e-4)[0]
    assert top.values == pytest.approx(sorted(oracle, reverse=True), rel=1e-2)


def test_lanczos_goes_on_after_an_invariant_subspace() -> None:
    h = torch.tensor([3.0, 3.0, 1.0, 1.0, 1.0, 0.0, 0.0, -2.0], dtype=torch.float64)
    start = torch.ones(8, dtype=torch.float64)
    *_, short = hessian.lanczos(lambda v: h * v, start)
    assert short.ritz()[0].tolist() == pytest.approx([-2, 0, 1, 3], abs=1e-9)
    generator = rng()
    *_, whole = hessian.lanczos(lambda v: h * v, start, lambda: torch.randn(8, generator=generator, dtype=torch.float64))
    assert whole.ritz()[0].tolist() == pytest.approx(sorted(h.tolist()), abs=1e-9)


def test_lanczos_makes_no_ghosts() -> None:
    h = torch.cat([torch.linspace(0, 1, 199, dtype=torch.float64), torch.tensor([50.0], dtype=torch.float64)])
    *_, t = islice(hessian.lanczos(lambda v: h * v, torch.randn(200, generator=rng(), dtype=torch.float64)), 90)
    values, weights, _ = t.ritz()
    assert int((values > 25).sum()) == 1
    assert float(weights.sum()) == pytest.approx(1)


def test_a_diverged_run_has_no_spectrum() -> None:
    loss, w = small()
    with pytest.raises(FloatingPointError, match="product 1"):
        hessian_top(loss, w * torch.nan, rng())


def test_trace_is_within_two_standard_errors() -> None:
    loss, w = small(WHOLE)
    exact = float(dense(loss, w).trace())
    for seed in range(3):
        trace = hessian_trace(loss, w, rng(seed))
        assert abs(trace.value - exact) <= 2 * trace.error
        assert trace.probes == 100 or trace.error <= 0.01 * abs(trace.value)


def test_trace_stops_early_only_when_the_standard_error_is_small() -> None:
    loss, w = small()
    early = hessian_trace(loss, w, rng(), tol=0.2)
    assert hessian.MIN_PROBES <= early.probes < 100
    assert early.error <= 0.2 * abs(early.value)


def test_density_holds_one_and_knows_the_trace() -> None:
    loss, w = small(WHOLE)
    density = hessian_density(loss, w, rng(), probes=20)
    grid = torch.linspace(-2, 3, 5001)
    curve, error = density.at(grid)
    assert float(torch.trapezoid(curve, grid)) == pytest.approx(1, abs=1e-3)
    assert (curve >= 0).all() and (error >= 0).all() and float(error.max()) > 0
    trace, spread = density.trace()
    assert abs(trace - float(dense(loss, w).trace())) <= 2 * spread
    with pytest.raises(ConfigError, match="width"):
        density.at(grid, width=0.0)


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("adaptive", [False, True])
def test_radius_0_gives_0(norm: sharpness.Norm, adaptive: bool) -> None:
    loss, w = small()
    estimates = [
        sharpness_max(loss, w, rho=0.0, norm=norm, adaptive=adaptive, m=4),
        sharpness_1step(loss, w, rho=0.0, adaptive=adaptive, m=4),
        sharpness_avg(loss, w, rng(), rho=0.0, norm=norm, adaptive=adaptive),
    ]
    assert [estimate.value for estimate in estimates] == pytest.approx([0, 0, 0], abs=1e-15)


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("adaptive", [False, True])
def test_the_perturbation_stays_in_its_ball_and_pays(norm: sharpness.Norm, adaptive: bool) -> None:
    loss, w = small()
    rho = 0.3
    rise, delta = sharpness.apgd(CountedLoss(loss), w, rho=rho, norm=norm, adaptive=adaptive, iterations=20)
    assert rise == pytest.approx(loss.value(w + delta) - loss.value(w)) and rise > 0
    unit = w.abs() if adaptive else torch.ones_like(w)
    assert (delta[unit == 0] == 0).all()
    scaled = (delta / unit)[unit > 0]
    size = torch.linalg.vector_norm(scaled) if norm == "l2" else scaled.abs().max()
    assert 0.9 * rho <= float(size) <= rho * (1 + 1e-9)


@pytest.mark.parametrize("adaptive", [False, True])
def test_a_larger_ball_holds_no_less(adaptive: bool) -> None:
    loss, w = small()
    rises = [sharpness_max(loss, w, rho=rho, adaptive=adaptive).value for rho in (0.05, 0.1, 0.3)]
    assert rises == sorted(rises)


def test_ascent_finds_more_than_one_step() -> None:
    loss, w = small()
    one, many = sharpness_1step(loss, w, rho=0.3), sharpness_max(loss, w, rho=0.3)
    assert 0 < one.value < many.value


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize(("norm", "dual"), [("l2", 2), ("linf", 1)])
def test_to_first_order_sharpness_is_the_dual_norm_of_the_gradient(norm: sharpness.Norm, dual: int, adaptive: bool) -> None:
    loss, w = small()
    g, _ = loss.gradient(w)
    rho = 1e-5
    bound = rho * float(torch.linalg.vector_norm(g * w.abs() if adaptive else g, ord=dual))
    ratio = sharpness_max(loss, w, rho=rho, norm=norm, adaptive=adaptive).value / bound
    # In the adaptive L2 ball the released ascent moves along |w| g where w^2 g would be best, and stays short of it.
    assert (0.9 if adaptive and norm == "l2" else 0.999) <= ratio <= 1.001
    if norm == "l2":
        assert sharpness_1step(loss, w, rho=rho, adaptive=adaptive).value == pytest.approx(bound, rel=1e-3)


def test_each_batch_has_its_own_perturbation() -> None:
    loss, w = small()
    whole = sharpness_max(loss, w, rho=0.3)
    each = sharpness_max(loss, w, rho=0.3, m=4)
    parts = [sharpness_max(part, w, rho=0.3).value for part in loss.split(4)]
    assert each.value == pytest.approx(sum(parts) / 3) and each.value > whole.value
    assert each.error == pytest.approx(float(torch.tensor(parts).std()) / 3**0.5, rel=1e-5)
    assert (whole.samples, each.samples) == (1, 3)
    assert whole.error != whole.error  # NaN: one sample has no standard error


def test_projection_on_an_ellipsoid_is_the_nearest_point() -> None:
    z, a = torch.tensor([3.0, 2.0, 0.0], dtype=torch.float64), torch.tensor([2.0, 0.5, 0.0], dtype=torch.float64)
    got = sharpness.project_ellipsoid(z, a, 1.0)
    angles = torch.linspace(0, torch.pi / 2, 100_001, dtype=torch.float64)
    boundary = torch.stack([2 * angles.cos(), 0.5 * angles.sin()], dim=1)
    nearest = boundary[(boundary - z[:2]).norm(dim=1).argmin()]
    assert got[:2].tolist() == pytest.approx(nearest.tolist(), abs=1e-3)
    assert float(got[2]) == 0
    inside = 0.1 * z
    assert torch.equal(sharpness.project_ellipsoid(inside, a, 1.0), inside)


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_average_rise_is_half_rho_squared_times_the_curvature(norm: sharpness.Norm, adaptive: bool) -> None:
    loss, w = small()
    rho, h = 1e-2, dense(loss, w)
    xi = torch.stack([sharpness.NOISE[norm](w, rng(seed)) for seed in range(8)])
    # A draw and its mirror image: what is odd in rho cancels.
    rise = sharpness.average_rise(loss, w, torch.cat([xi, -xi]), rho=rho, adaptive=adaptive)
    along = xi * w.abs() if adaptive else xi
    assert rise.value == pytest.approx(rho**2 / 2 * float(((along @ h) * along).sum(dim=1).mean()), rel=5e-3)


def test_average_sharpness_agrees_with_the_trace() -> None:
    loss, w = small(WHOLE)
    trace, rho = float(dense(loss, w).trace()), 0.05
    for norm, share in (("l2", 1.0), ("linf", 1 / 3)):
        got = sharpness_avg(loss, w, rng(), rho=rho, norm=norm, draws=1000)  # type: ignore[arg-type]
        assert abs(got.value - share * rho**2 / 2 * trace) <= 2.5 * got.error


def test_normalized_logits_make_the_loss_independent_of_the_last_layers_scale() -> None:
    loss, w = small()
    scaled = w.clone()
    for segment in loss.layout.segments[-2:]:
        scaled[segment.slice] *= 7
    assert loss.value(w) != pytest.approx(loss.value(scaled))
    free = replace(loss, normalize_logits=True)
    assert free.value(w) == pytest.approx(free.value(scaled), rel=1e-12)
    assert normalized_logits(torch.full((2, 3), 5.0)).tolist() == [[0.0] * 3] * 2


def test_filters_have_the_norms_of_the_weights() -> None:
    module = nn.Sequential(nn.Conv2d(2, 3, 3), nn.GroupNorm(1, 3), nn.Flatten(), nn.Linear(3, 2))
    layout = Layout.of_module(module)
    w = layout.vector(dict(module.named_parameters()))
    got = layout.views(sharpness.filter_normalized(sharpness.gaussian(w, rng()), w, layout))
    for name, tensor in layout.views(w).items():
        if tensor.ndim < 2:
            assert not got[name].any()
        else:
            assert torch.allclose(got[name].flatten(1).norm(dim=1), tensor.flatten(1).norm(dim=1))


def test_slices_pass_through_the_vector_itself() -> None:
    loss, w = small()
    d1, d2 = (sharpness.filter_normalized(sharpness.gaussian(w, rng(seed)), w, loss.layout) for seed in (1, 2))
    alphas = (-1.0, 0.0, 0.5)
    plane = sharpness.slice_2d(loss, w, d1, d2, alphas).losses
    assert torch.allclose(plane[:, 1], sharpness.slice_1d(loss, w, d1, alphas).losses)
    assert torch.allclose(plane[1], sharpness.slice_1d(loss, w, d2, alphas).losses)
    assert float(plane[1, 1]) == loss.value(w)
    assert float(plane[0, 2]) == pytest.approx(loss.value(w - d1 + 0.5 * d2))


def test_the_same_generator_gives_the_same_result() -> None:
    loss, w = small()
    draws: list[Callable[[torch.Generator], object]] = [
        lambda generator: hessian_top(loss, w, generator),
        lambda generator: hessian_trace(loss, w, generator, probes=4),
        lambda generator: sharpness_avg(loss, w, generator, rho=0.1),
    ]
    torch.manual_seed(5)
    held = torch.get_rng_state()
    for draw in draws:
        assert draw(rng(1)) == draw(rng(1)) != draw(rng(2))
    assert torch.equal(torch.get_rng_state(), held)


@pytest.mark.parametrize(
    ("key", "wrong"),
    [
        ("rho", lambda loss, w: sharpness_max(loss, w, rho=-0.1)),
        ("rho", lambda loss, w: sharpness_avg(loss, w, rng(), rho=float("nan"))),
        ("norm", lambda loss, w: sharpness_max(loss, w, rho=0.1, norm="l1")),  # type: ignore[arg-type]
        ("m", lambda loss, w: sharpness_1step(loss, w, rho=0.1, m=0)),
        ("iterations", lambda loss, w: sharpness_max(loss, w, rho=0.1, iterations=0)),
        ("draws", lambda loss, w: sharpness_avg(loss, w, rng(), rho=0.1, draws=0)),
        ("k", lambda loss, w: hessian_top(loss, w, rng(), k=0)),
        ("k", lambda loss, w: hessian_top(loss, w, rng(), k=1000)),
        ("max_steps", lambda loss, w: hessian_top(loss, w, rng(), k=5, max_steps=19)),
        ("probes", lambda loss, w: hessian_trace(loss, w, rng(), probes=1)),
        ("probes", lambda loss, w: hessian_density(loss, w, rng(), probes=1)),
        ("steps", lambda loss, w: hessian_density(loss, w, rng(), steps=0)),
    ],
)
def test_a_wrong_setting_is_named(key: str, wrong: Callable[[Loss, Tensor], SharpnessEstimate]) -> None:
    with pytest.raises(ConfigError, match=f"^{key}: .* is not (allowed|known)"):
        wrong(*small())
