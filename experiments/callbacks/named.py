"""The callbacks that an experiment names: those of ours by their names, others as `module:attribute`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager

from experiments.callbacks.callback import Callback
from fedsam import plugins
from fedsam.config import ConfigError, Experiment

OURS = {
    "tensorboard": "experiments.callbacks.tensorboard:TensorBoardCallback",
    "mlflow": "experiments.callbacks.mlflow:MlflowCallback",
    "wandb": "experiments.callbacks.wandb:WandbCallback",
}


def callback_classes(experiment: Experiment) -> list[type[Callback]]:
    """The classes that `callbacks` names.

    Raises:
        ConfigError: One is not known, its module cannot be imported, or it is no class of callbacks.
    """
    return [_class(name) for name in experiment.callbacks]


@contextmanager
def named_callbacks(experiment: Experiment) -> Iterator[list[Callback]]:
    """One callback of each class, for a run; those that are context managers end with the block. Raises as `callback_classes`."""
    with ExitStack() as stack:
        made = []
        for name, kind in zip(experiment.callbacks, callback_classes(experiment), strict=True):
            with plugins.component_errors("callbacks", name):
                callback = kind()
            made.append(callback)
            if isinstance(callback, AbstractContextManager):
                stack.enter_context(callback)
        yield made


def _class(name: str) -> type[Callback]:
    if name not in OURS and not plugins.is_reference(name):
        raise ConfigError(f"callbacks: {name!r} is not known; allowed: {', '.join(OURS)}, module:attribute")
    found = plugins.load(OURS.get(name, name), "callbacks")
    if not (isinstance(found, type) and issubclass(found, Callback)):
        raise ConfigError(f"callbacks: {name!r} is not allowed: must be a class that is derived from fedsam.Callback")
    return found
