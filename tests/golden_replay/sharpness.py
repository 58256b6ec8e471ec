"""Replays `golden-sharpness/1`: Hessian spectra, worst-case and average sharpness, and slices of one small network."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from fedsam.evaluation import hessian, sharpness
from fedsam.evaluation.loss import CountedLoss, Loss, batch_sizes, normalized_logits
from fedsam.models.flat import Layout
from tests.golden_replay.replay import Case, Deviations, deviation, module_of

Check = Callable[["Subject", Any], Deviations]

# Told by the file, and not values of ours.
COMMENTS = {"note", "source"}

# Settings of a worst case.
HOW = ("rho", "norm", "adaptive", "iterations")


@dataclass(frozen=True)
class Subject:
    """The loss of a case, the vector it is measured at, and the tolerances."""

    loss: Loss
    w: Tensor
    tol: Case

    @property
    def product(self) -> hessian.Product:
        """v -> H v."""
        return partial(self.loss.hvp, self.w)

    def compare(self, got: Tensor | float, want: object, kind: str = "default", rtol: float | None = None) -> float:
        """Deviation in units of the case's tolerance of that kind."""
        tol = self.tol.get(kind, self.tol["default"])
        return deviation(got, want, tol["rtol"] if rtol is None else rtol, tol["atol"])

    def each(self, what: str, got: Mapping[str, Tensor | float], want: Case, kind: str = "default") -> Deviations:
        """The deviation of everything in `want`, which must be in `got`."""
        for name in want.keys() - COMMENTS:
            if name not in got:
                raise ValueError(f"{what} {name!r} is not known")
            yield f"{what} {name}", self.compare(got[name], want[name], kind)


def _known(what: str, entry: Case, names: set[str]) -> None:
    if unknown := sorted(entry.keys() - names - COMMENTS):
        raise ValueError(f"{what} {unknown} is not known; known: {', '.join(sorted(names))}")


def _vector(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def _subject(case: Case) -> Subject:
    loss = {"type": "cross_entropy", "reduction": "mean", "label_smoothing": 0.0}
    if case["loss"] != loss or case["mode"] != "eval":
        raise ValueError(f"loss {case['loss']} in mode {case['mode']!r} is not measured; known: {loss} in mode 'eval'")
    module = module_of(case["model"]).double()
    if ("buffers_init" in case) != bool(Layout.of_buffers(module).size):
        raise ValueError("buffers_init must be given if and only if the model has buffers")
    x, y = _vector(case["x"]), torch.tensor(case["y"])
    # Batches smaller than the whole, so that streaming is replayed too.
    sizes = batch_sizes(len(y), max(1, len(y) * 2 // 5))
    buffers = _vector(case.get("buffers_init", []))
    return Subject(Loss(module, buffers, x, y, sizes, prepare=lambda batch: batch), _vector(case["init"]), case["tol"])


def _value(s: Subject, want: float) -> Deviations:
    yield "loss", s.compare(s.loss.value(s.w), want)
    yield "loss of the gradient's pass", s.compare(s.loss.gradient(s.w)[1], want)


def _gradient(s: Subject, want: list[float]) -> Deviations:
    yield "grad", s.compare(s.loss.gradient(s.w)[0], want)


def _gradient_norm(s: Subject, want: float) -> Deviations:
    yield "grad_norm", s.compare(torch.linalg.vector_norm(s.loss.gradient(s.w)[0]), want)


def _hessian(s: Subject, want: Case) -> Deviations:
    """All of it from products with the unit vectors; the ends also as `hessian_top` finds them."""
    p = len(s.w)
    h = torch.stack([s.product(unit) for unit in torch.eye(p, dtype=torch.float64)])
    values = torch.linalg.eigvalsh(h).flip(0)
    got: dict[str, Tensor | float] = {
        "eigenvalues": values,
        "top5_algebraic": values[:5],
        "top5_magnitude": values[values.abs().argsort(descending=True)][:5],
        "smallest": values.flip(0)[:3],
        "trace": h.trace(),
        "diagonal": h.diagonal(),
        "frobenius_sq": (h**2).sum(),
    }
    yield from s.each("hessian", got, want)
    k = min(5, p)
    exact = hessian.hessian_top(s.loss, s.w, torch.Generator().manual_seed(0), k=k, tol=1e-9, max_steps=max(100, p))
    yield "hessian_top values", s.compare(_vector(exact.values), want["top5_algebraic"], "lanczos")
    yield "hessian_top smallest", s.compare(exact.smallest, want["smallest"][0], "lanczos")
    usual = hessian.hessian_top(s.loss, s.w, torch.Generator().manual_seed(1), k=1)
    yield "hessian_top within its tolerance", deviation(usual.values[0], want["top5_algebraic"][0], 1e-3, 0.0)


def _product(s: Subject, want: Case) -> Deviations:
    yield from s.each("hvp", {"v": _vector(want["v"]), "Hv": s.product(_vector(want["v"]))}, want)


def _hutchinson(s: Subject, want: Case) -> Deviations:
    probes = _vector(want["probes"])
    trace = hessian.hutchinson(s.loss, s.w, probes)
    samples = torch.stack([torch.dot(v, s.product(v)) for v in probes])
    got: dict[str, Tensor | float] = {"probes": probes, "vHv": samples, "mean": trace.value, "standard_error": trace.error}
    yield from s.each("hutchinson", got, want)


def _lanczos(s: Subject, want: Case) -> Deviations:
    *_, t = islice(hessian.lanczos(s.product, _vector(want["v0"])), want["steps"])
    values, weights, residuals = t.ritz()
    got: dict[str, Tensor | float] = {
        "v0": _vector(want["v0"]),
        "steps": len(t.alphas),
        "ritz": values,
        "weights": weights,
        "residuals": residuals,
    }
    got |= {"alphas": _vector(t.alphas), "betas": _vector(t.betas), "last_beta": t.last_beta}
    yield from s.each("lanczos", got, want, "lanczos")


def _quadrature(s: Subject, want: Case) -> Deviations:
    density = hessian.quadrature(s.loss, s.w, [_vector(want["probe"])], want["steps"])
    (nodes,), (weights,) = density.nodes, density.weights
    got: dict[str, Tensor | float] = {"probe": _vector(want["probe"]), "steps": len(nodes), "ritz": nodes, "weights": weights}
    yield from s.each("slq", got, want, "slq")


def _uneven(s: Subject, want: Case) -> Deviations:
    _known("uneven_batches", want, {"sizes", "lambda_max_weighted", "lambda_max_if_unweighted"})
    uneven = replace(s.loss, sizes=tuple(want["sizes"]))
    rng = torch.Generator().manual_seed(2)
    top = hessian.hessian_top(uneven, s.w, rng, k=1, tol=1e-9, max_steps=max(100, len(s.w)))
    yield "largest eigenvalue from uneven batches", s.compare(top.values[0], want["lambda_max_weighted"], "lanczos")


def _logits(s: Subject, want: Case) -> Deviations:
    got = {"logits": _vector(want["logits"]), "normalised": normalized_logits(_vector(want["logits"]))}
    got["loss_normalised"] = _vector(replace(s.loss, normalize_logits=True).value(s.w))
    yield from s.each("logit_normalisation", got, want)


def _one_step(s: Subject, want: list[Case]) -> Deviations:
    g, _ = s.loss.gradient(s.w)
    for entry in want:
        rho, adaptive = entry["rho"], entry["adaptive"]
        length = torch.linalg.vector_norm(sharpness.one_step(s.w, g, rho, adaptive))
        got = {"rho": rho, "adaptive": adaptive, "delta_norm": length}
        got["value"] = sharpness.sharpness_1step(s.loss, s.w, rho=rho, adaptive=adaptive).value
        yield from s.each("one_step", got, entry)


def _worst_case(s: Subject, want: Case) -> Deviations:
    _known("worst_case", want, {"values"})
    for entry in want["values"]:
        _known("worst_case", entry, {*HOW, "m", "logit_normalisation", "value", "error_increase", "rtol"})
        loss = replace(s.loss, normalize_logits=entry["logit_normalisation"])
        how: dict[str, Any] = {key: entry[key] for key in HOW}
        got = sharpness.sharpness_max(loss, s.w, m=entry["m"], **how).value
        yield f"worst case {how}", s.compare(got, entry["value"], rtol=entry["rtol"])
        rises = [
            _errors(part, s.w + sharpness.apgd(CountedLoss(part), s.w, **how)[1]) - _errors(part, s.w) for part in loss.split(entry["m"])
        ]
        # A recorded float32 mean of correct answers.
        yield f"error increase {how}", deviation(sum(rises) / len(rises), entry["error_increase"], 0.0, 1e-6)


def _errors(loss: Loss, w: Tensor) -> float:
    """Share of examples that the network gets wrong at w."""
    held = {**loss.layout.views(w), **Layout.of_buffers(loss.module).views(loss.buffers)}
    logits = torch.func.functional_call(loss.module.eval(), held, (loss.x,))
    return float((logits.argmax(dim=1) != loss.y).double().mean())


def _average_case(s: Subject, want: Case) -> Deviations:
    _known("average_case", want, {"values"})
    noise: Tensor = torch.empty(0)
    for entry in want["values"]:
        _known("average_case", entry, {"kind", "adaptive", "rho", "m", "xi", "per_batch", "value"})
        if entry["kind"] not in sharpness.NOISE:
            raise ValueError(f"average_case kind {entry['kind']!r} is not known")
        if entry["xi"] != "as in the previous entry":
            noise = _vector(entry["xi"])
        measure = partial(sharpness.average_rise, w=s.w, noise=noise, rho=entry["rho"], adaptive=entry["adaptive"])
        parts = [measure(part).value for part in s.loss.split(entry["m"])]
        what = f"average case {entry['kind']}, adaptive {entry['adaptive']}"
        yield f"{what}, per batch", s.compare(_vector(parts), entry["per_batch"])
        yield what, s.compare(_vector(parts).mean(), entry["value"])
        if len(s.loss.y) % entry["m"] == 0:
            yield f"{what}, of all examples", s.compare(measure(s.loss).value, entry["value"])


def _landscape(s: Subject, want: Case) -> Deviations:
    d1, d2 = (_vector(want[key]) for key in ("direction", "direction_2"))
    n1, n2 = (sharpness.filter_normalized(d, s.w, s.loss.layout) for d in (d1, d2))
    line = sharpness.slice_1d(s.loss, s.w, n1, want["alphas"])
    plane = sharpness.slice_2d(s.loss, s.w, n1, n2, want["alphas"])
    got = {"direction": d1, "direction_2": d2, "filter_normalised": n1, "filter_normalised_2": n2}
    got |= {"alphas": _vector(line.alphas), "loss_1d": line.losses, "loss_2d": plane.losses}
    yield from s.each("landscape", got, want)


CHECKS: Mapping[str, Check] = {
    "loss": _value,
    "grad": _gradient,
    "grad_norm": _gradient_norm,
    "hessian": _hessian,
    "hvp": _product,
    "hutchinson": _hutchinson,
    "lanczos": _lanczos,
    "slq": _quadrature,
    "uneven_batches": _uneven,
    "logit_normalisation": _logits,
    "one_step": _one_step,
    "worst_case": _worst_case,
    "average_case": _average_case,
    "landscape": _landscape,
}


def replay(document: Case, case: Case) -> Iterator[tuple[str, float]]:
    """The deviations of one case.

    Raises:
        ValueError: It records something that is not known here.
    """
    if unknown := sorted(case["expected"].keys() - CHECKS.keys()):
        raise ValueError(f"expected {unknown} is not known; known: {', '.join(CHECKS)}")
    subject = _subject(case)
    for name, want in case["expected"].items():
        yield from CHECKS[name](subject, want)
