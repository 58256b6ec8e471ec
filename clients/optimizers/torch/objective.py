"""The objective of a closure: the loss that a torch training loop computes at the weights that a local optimizer asks for.

Legend: `w, g: (P,)`; `losses: (B,)`; `x: (B, ...)` and `y: (B,)` examples; T tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from clients.objective import Batch, Objective
from clients.optimizers.torch.scaling import LossScaling, refused_scaling
from fedsam.config import ConfigError
from fedsam.models.flat import Layout
from fedsam.models.network import own_buffers, still

Closure = Callable[..., Any]
EXAMPLES = ("the examples", "call step(closure, (x, y)), where closure(x, y) returns the losses (B,) and does not call backward")


class Weights:
    """Parameters of a model, which lie where its user put them, and their values `home` as one vector (P,) at the start of a step."""

    def __init__(self, parameters: Sequence[Tensor], layout: Layout) -> None:
        self.parameters, self.layout = parameters, layout
        self._shapes = [p.shape for p in parameters]
        self._sizes = [p.numel() for p in parameters]
        self.read()

    def read(self) -> None:
        """Make `home` what the parameters are now."""
        self.home = torch.cat([p.detach().reshape(-1) for p in self.parameters])

    @contextmanager
    def at(self, w: Tensor) -> Iterator[None]:
        """The parameters are those of `w` inside the block: views of it, so that nothing is copied."""
        if w is self.home:
            yield
            return
        own = [p.data for p in self.parameters]
        self._point(self._views(w))
        try:
            yield
        finally:
            self._point(own)

    def move_(self, w: Tensor) -> None:
        """Make `w` the parameters."""
        torch._foreach_copy_([p.data for p in self.parameters], self._views(w))
        torch.clear_autocast_cache()

    def flat(self, tensors: Iterable[Tensor | None]) -> Tensor:
        """One vector (P,) of a tensor for each parameter, 0 where there is none."""
        pairs = zip(self.parameters, tensors, strict=True)
        return torch.cat([p.new_zeros(p.numel()) if t is None else t.reshape(-1) for p, t in pairs])

    def _views(self, w: Tensor) -> list[Tensor]:
        return [part.view(shape) for part, shape in zip(w.detach().split(self._sizes), self._shapes, strict=True)]

    def _point(self, views: Sequence[Tensor]) -> None:
        for parameter, view in zip(self.parameters, views, strict=True):
            parameter.data = view
        torch.clear_autocast_cache()  # inside an autocast region it holds the last pass's weights in half precision


class ClosureObjective(Objective):
    """The loss that a closure computes at the parameters' values."""

    def __init__(
        self,
        weights: Weights,
        module: nn.Module | None,
        closure: Closure | None,
        method: str,
        *,
        by_example: bool,
        scaling: LossScaling | None = None,
    ) -> None:
        self.layout = weights.layout
        self._weights, self._module, self._closure, self._method = weights, module, closure, method
        self._by_example, self._scaling = by_example, scaling
        self._own_buffers = [] if module is None else own_buffers(module)
        self._first = True
        self._evaluation = False
        self.first_loss: Tensor | None = None

    def refuse(self, what: str, remedy: str) -> NoReturn:
        """Raises `ConfigError`: the method needs something that the call of `step` does not give."""
        raise ConfigError(f"closure: {self._method} needs {what}: {remedy}")

    def begin(self) -> None:
        """As `Objective.begin`."""
        self._first = True

    @contextmanager
    def aside(self, *, evaluation: bool = False) -> Iterator[None]:
        """As `Objective.aside`."""
        before = self._first, self._evaluation, self._reached
        self._first, self._evaluation = False, evaluation
        try:
            yield
        finally:
            self._first, self._evaluation, self._reached = before

    def grad(self, w: Tensor, batch: Batch, *, mask: Sequence[bool] | None = None, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """As `Objective.grad`; the loss of a closure without examples is one loss (1,)."""
        if self._closure is None:
            return self._given(w, mask)
        with self._pass(w), self._only(mask) as wanted, torch.enable_grad():
            for parameter in self._weights.parameters:
                parameter.grad = None
            with refused_scaling():
                losses = self._losses(batch)
            self.first_loss = losses.detach().mean() if self.first_loss is None else self.first_loss
            grads = [p.grad for p in self._weights.parameters]
            if any(g is not None for g in grads):
                if self._by_example or weights is not None:
                    self.refuse("the losses of single examples", EXAMPLES[1])
                if self._scaling is not None:
                    self.refuse("the loss alone where a scaler is given", "do not call backward in the closure")
                self._reach(grads)
                return self._weights.flat(grads), losses.detach()
            if not losses.requires_grad:
                raise ConfigError("closure: returned a loss without a graph, and no gradient: return the loss, or call its backward")
            return self._differentiated(losses, wanted, weights), losses.detach()

    def losses(self, w: Tensor, batch: Batch) -> Tensor:
        """As `Objective.losses`."""
        with self._pass(w):
            try:
                return self._losses(batch)
            except RuntimeError as error:
                if "does not require grad" not in str(error):
                    raise
                self.refuse("losses without a gradient", EXAMPLES[1])

    def logits(self, w: Tensor, batch: Batch) -> NoReturn:
        """Not to be had from a closure. Raises `ConfigError`."""
        self.refuse("class scores", "no closure gives them, use it in a federation")

    def _given(self, w: Tensor, mask: Sequence[bool] | None) -> tuple[Tensor, Tensor]:
        """The gradient that lies in `.grad`; its loss is not known."""
        if w is not self._weights.home or mask is not None or not self._first:
            self.refuse("more passes than one at the weights", "call step(closure)")
        self._first = False
        grads = [p.grad for p in self._weights.parameters]
        self._reach(grads)
        return self._weights.flat(grads), w.new_full((1,), torch.nan)

    def _losses(self, batch: object) -> Tensor:
        """What the closure returns, as a vector."""
        assert self._closure is not None
        if not self._by_example:
            if not isinstance(batch, Unseen):
                self.refuse(*EXAMPLES)
            loss = self._closure()
            return loss.reshape(-1) if isinstance(loss, Tensor) else self._weights.home.new_tensor([loss])
        assert isinstance(batch, Batch)
        losses: Tensor = self._closure(batch.x, batch.y)
        if losses.shape != batch.y.shape:
            shapes = f"{tuple(losses.shape)} for {tuple(batch.y.shape)} examples"
            raise ConfigError(f"closure: a loss of shape {shapes} is not allowed: closure(x, y) returns one loss for each")
        return losses

    def _differentiated(self, losses: Tensor, wanted: Sequence[bool], weights: Tensor | None) -> Tensor:
        if weights is None:
            return self._backward(losses.mean(), wanted)
        totals = (weights * losses).sum(dim=-1)
        if totals.ndim == 0:
            return self._backward(totals, wanted)
        last = len(totals) - 1
        return torch.stack([self._backward(total, wanted, keep_graph=row < last) for row, total in enumerate(totals)])

    def _backward(self, loss: Tensor, wanted: Sequence[bool], *, keep_graph: bool = False) -> Tensor:
        inputs = [p for p, flag in zip(self._weights.parameters, wanted, strict=True) if flag]
        scaled = loss if self._scaling is None else self._scaling.scale(loss)
        found = torch.autograd.grad(scaled, inputs, retain_graph=keep_graph, allow_unused=True)
        each = iter(found if self._scaling is None else self._scaling.unscaled(inputs, found))
        grads = [next(each) if flag else None for flag in wanted]
        self._reach(grads)
        return self._weights.flat(grads)

    @contextmanager
    def _pass(self, w: Tensor) -> Iterator[None]:
        """A pass at `w`: running statistics follow it only if it is the first of its step."""
        statistics, self._first = self._first, False
        with self._weights.at(w), nullcontext() if statistics else self._still():
            yield

    def _still(self) -> AbstractContextManager[None]:
        if self._module is not None:
            return _evaluating(self._module) if self._evaluation else _without_statistics(self._module, self._own_buffers)
        if self._evaluation:
            self.refuse("a pass in evaluation mode", "call as_torch with the model, not with its parameters")
        return nullcontext()

    @contextmanager
    def _only(self, mask: Sequence[bool] | None) -> Iterator[list[bool]]:
        """Tensors with a false flag need no gradient inside the block, whoever calls backward; gives who needs one."""
        parameters = self._weights.parameters
        before = [p.requires_grad for p in parameters]
        wanted = before if mask is None else [flag and required for flag, required in zip(mask, before, strict=True)]
        masked = [p for p, now, then in zip(parameters, wanted, before, strict=True) if then and not now]
        for parameter in masked:
            parameter.requires_grad_(False)
        try:
            yield wanted
        finally:
            for parameter in masked:
                parameter.requires_grad_(True)


class Unseen:
    """Stands for the examples of a step whose closure knows them and the optimizer does not."""

    def __init__(self, objective: ClosureObjective) -> None:
        self._objective = objective

    def __getattr__(self, name: str) -> NoReturn:
        self._objective.refuse(*EXAMPLES)

    def __getitem__(self, index: object) -> NoReturn:
        self.__getattr__("x")


@contextmanager
def _without_statistics(module: nn.Module, buffers: Sequence[tuple[nn.Module, str]]) -> Iterator[None]:
    """Layers in training mode normalize by the batch inside the block but leave their running statistics, or own `buffers`, alone."""
    layers = [m for m in module.modules() if isinstance(m, _NormBase) and m.training and m.track_running_stats]
    for layer in layers:
        layer.track_running_stats = False
    try:
        with still(buffers):
            yield
    finally:
        for layer in layers:
            layer.track_running_stats = True


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """The model is in evaluation mode inside the block."""
    training = [m for m in module.modules() if m.training]
    module.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True
