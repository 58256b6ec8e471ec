"""Every local optimizer as a `torch.optim.Optimizer`, for training loops outside a federation.

Legend: `w, g: (P,)`; `losses: (B,)`; `x: (B, ...)` and `y: (B,)` examples; T tensors.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from typing import Any, ClassVar, cast, overload

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from clients.objective import Batch
from clients.optimizers.base import LocalOptimizer, Task
from clients.optimizers.torch.objective import Closure, ClosureObjective, Unseen, Weights
from clients.optimizers.torch.scaling import LossScaling, OverflowedError
from fedsam.config import ConfigError
from fedsam.models.flat import Layout, Segment
from fedsam.seeds import stream

Parameters = nn.Module | Iterable[Tensor] | Iterable[tuple[str, Tensor]]


def as_torch(rule: LocalOptimizer, model_or_params: Parameters, *, task: Task | None = None, seed: int = 0) -> TorchOptimizer:
    """A `torch.optim.Optimizer` that takes the steps of `rule`.

    >>> from clients.optimizers import SAM
    >>> model = nn.Linear(2, 1)
    >>> optimizer = as_torch(SAM(lr=0.1, rho=0.05), model)
    >>> def closure() -> Tensor:
    ...     optimizer.zero_grad()
    ...     loss = (model(torch.ones(4, 2)) - 10).square().mean()
    ...     loss.backward()
    ...     return loss
    >>> losses = [optimizer.step(closure) for _ in range(10)]
    >>> bool(losses[-1] < losses[0])
    True

    Args:
        model_or_params: The model, on its device already. Its parameters, named or not, also do; then running statistics (BatchNorm)
            follow every pass of a step rather than the first, and methods that need names or normalization layers say so.
        task: What the method may know about the training: its length, the class counts, examples to score.
        seed: Of the draws that some methods make.

    Raises:
        ConfigError: The parameters are not one group of tensors of one type on one device, or the task lacks what the method needs.
    """
    return TorchOptimizer(rule, model_or_params, task or Task(), seed)


class TorchOptimizer(torch.optim.Optimizer):
    """A local optimizer in the clothes of torch; made by `as_torch`.

    The parameters stay where they are; during the passes of a step they are views of one vector. All hyperparameters of the rule are
    in `param_groups[0]`, where schedulers change them; there is one group, because a perturbation has one length over all tensors.
    The rule's state is `state["rule"]`. Tensors without a gradient stay as they are, as in torch.
    """

    def __init__(self, rule: LocalOptimizer, model_or_params: Parameters, task: Task, seed: int) -> None:
        named, self._frozen, layout = _opened(model_or_params)
        self._rule = rule
        self._names = [field.name for field in fields(rule)]
        super().__init__([p for _, p in named], {name: getattr(rule, name) for name in self._names})
        self._weights = Weights([p for _, p in named], layout)
        self._module = model_or_params if isinstance(model_or_params, nn.Module) else None
        state = rule.init(self._weights.home.clone(), task)
        self.state["rule"] = {"name": type(rule).__name__, "seed": seed, "steps": 0, "state": dict(state)}  # type: ignore[index]

    @overload  # type: ignore[override]  # torch declares a float, but gives what the closure gives
    def step(self, closure: None = None) -> None:
        """A step along `.grad`."""

    @overload
    def step(self, closure: Closure, batch: tuple[Tensor, Tensor] | None = None, *, scaler: GradScaler | None = None) -> Tensor:
        """A step with a closure."""

    @torch.no_grad()
    def step(
        self, closure: Closure | None = None, batch: tuple[Tensor, Tensor] | None = None, *, scaler: GradScaler | None = None
    ) -> Tensor | None:
        """One step; returns the mean loss of its first pass, or nothing without a closure.

        Args:
            closure: Called once per pass, with the weights of the pass in place. Without `batch`: `closure()` returns the loss of the
                step's examples, whether or not it called `loss.backward()`; enough for methods of mean gradients. With `batch`:
                `closure(x, y)` returns the losses (B,) of the examples it is given and does not call `backward`; enough for all
                but FedGMT and FedSOL, which need class scores. Unset: `.grad` is the gradient; enough for one pass at the weights.
            batch: Images or other inputs `x` (B, ...) and labels `y` (B,) of the step.
            scaler: Scales the loss of every pass against underflow in float16; call its `update` after the step, but not its `scale` and
                `step`, and leave `backward` to the optimizer. Where a gradient overflows, the step is left out.

        Raises:
            ConfigError: The method needs another kind of closure, or the model is not what it was; the weights are then what they were.
        """
        weights, own = self._weights, self.state["rule"]  # type: ignore[index]
        self._check_model()
        if closure is None and scaler is not None:
            raise ConfigError("closure: needed with a scaler; gradients that are there already go through scaler.step(optimizer)")
        weights.read()
        self._follow_group()
        self._scaling = None if scaler is None else LossScaling(scaler)  # lives until the scaler's `update`
        objective = ClosureObjective(
            weights, self._module, closure, type(self._rule).__name__, by_example=batch is not None, scaling=self._scaling
        )
        examples = cast(Batch, Unseen(objective)) if batch is None else Batch(*batch)
        rng = stream(own["seed"], "as_torch", own["steps"])
        try:
            w, state, losses = self._rule.step(weights.home, own["state"], objective, examples, rng)
        except OverflowedError:
            return objective.first_loss
        weights.move_(w)
        own |= {"steps": own["steps"] + 1, "state": dict(state)}
        return None if closure is None else losses.mean()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As in torch, but only once. Raises `ConfigError` for a second group."""
        if self.param_groups:
            raise ConfigError("param_groups: a second group is not allowed: a method looks at all parameters together")
        super().add_param_group(param_group)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As in torch; the training goes on as it would have. Raises `ConfigError` if the state belongs to another method."""
        saved, name = state_dict["state"].get("rule", {}), type(self._rule).__name__
        if saved.get("name") != name:
            raise ConfigError(f"state_dict: the state of {saved.get('name')!r} is not allowed: this is {name!r}")
        super().load_state_dict(state_dict)
        device = self._weights.home.device
        state = {key: value.to(device) if isinstance(value, Tensor) else value for key, value in saved["state"].items()}
        self.state["rule"] = {**saved, "state": state}  # type: ignore[index]

    def _check_model(self) -> None:
        """Raise `ConfigError` where the parameters are no longer those, or of the type, that the state belongs to."""
        thawed = [name for name, p in self._frozen if p.requires_grad]
        if thawed:
            raise ConfigError(f"model: {', '.join(thawed)} did not require gradients when as_torch was called: call it again to train them")
        home = self._weights.home
        if any(p.dtype != home.dtype or p.device != home.device for p in self._weights.parameters):
            raise ConfigError("model: moved or converted since as_torch is not allowed: call as_torch last")

    def _follow_group(self) -> None:
        """Make the rule's hyperparameters those of the group, which schedulers may have changed."""
        group = self.param_groups[0]
        changed = {name: group[name] for name in self._names if group[name] is not getattr(self._rule, name)}
        if changed:
            self._rule = replace(self._rule, **changed)


class _Nameless(Segment):
    """A segment of bare parameters; reading what only their names or the model tell is an error."""

    hidden: ClassVar[Mapping[str, str]] = {"name": "the names of tensors", "norm": "to know the normalization layers"}
    __hash__ = object.__hash__  # the inherited ones would read what is hidden
    __eq__ = object.__eq__

    def __getattribute__(self, key: str) -> Any:
        if key in type(self).hidden:
            raise ConfigError(f"model_or_params: the method needs {type(self).hidden[key]}: call as_torch with the model")
        return super().__getattribute__(key)


class _Normless(_Nameless):
    """A segment of a named parameter."""

    hidden: ClassVar[Mapping[str, str]] = {"norm": _Nameless.hidden["norm"]}


def _opened(model_or_params: Parameters) -> tuple[list[tuple[str, Tensor]], list[tuple[str, Tensor]], Layout]:
    """Trainable and frozen tensors with their names, and the layout of the trainable ones, which tells no more than is known."""
    pairs: list[tuple[str, Tensor]]
    if isinstance(model_or_params, nn.Module):
        pairs = list(model_or_params.named_parameters())
        layout = Layout.of_module(model_or_params)
    else:
        given = list(model_or_params)
        kind: type[Segment] = _Normless if any(isinstance(item, tuple) for item in given) else _Nameless
        pairs = [item if isinstance(item, tuple) else (str(i), item) for i, item in enumerate(given)]
        if not all(isinstance(p, Tensor) for _, p in pairs):
            raise ConfigError("model_or_params: parameter groups are not allowed: a method looks at all parameters together")
        layout = Layout(tuple(kind(s.name, s.shape, s.start) for s in Layout.of((n, p) for n, p in pairs if p.requires_grad).segments))
    named, frozen = [(n, p) for n, p in pairs if p.requires_grad], [(n, p) for n, p in pairs if not p.requires_grad]
    kinds = {f"{p.dtype} on {p.device}" for _, p in named}
    if len(kinds) != 1:
        raise ConfigError(f"model_or_params: {', '.join(sorted(kinds)) or 'nothing to train'} is not allowed: one type on one device")
    return named, frozen, layout
