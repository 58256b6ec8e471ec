"""The defaults of our components filled into an experiment without importing them, where that needs no more than their descriptions."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from functools import reduce
from typing import Any

from experiments.settings import descriptions, names
from experiments.settings.descriptions import Description, Setting
from experiments.settings.presets import expand
from fedsam import overrides
from fedsam.config import Component, Experiment

METHOD = ("client.optimizer", "client.correction", "server.strategy")
KINDS = {kind.setting: name for name, kind in names.KINDS.items() if name not in ("datasets", "samplers")} | {
    "simulate.bandwidth": "distributions",
    "client.rho_schedule": "schedules",
}
FILLED = (*METHOD, "client.schedule", "client.rho_schedule", "data.partition", "model")
TYPES: Mapping[str, tuple[type, ...]] = {"number": (float, int), "integer": (int,), "boolean": (bool,), "string": (str,)}


class _UncertainError(Exception):
    """Only the components themselves can tell whether the settings are right."""


def resolve(experiment: Experiment) -> dict[str, Any] | None:
    """As `experiments.settings.catalogue.resolved`; None where the settings may be wrong, or name components that are not ours."""
    try:
        return _resolve(experiment)
    except _UncertainError:
        return None


def signature(experiment: Experiment, of: Callable[[str], Mapping[str, Description]] = descriptions.of) -> str:
    """What decides whether the components of the experiment's method fit together: their names, and the settings that are no plain numbers.

    Args:
        of: Gives our components of a kind.

    Raises:
        _UncertainError: A component is not ours.
    """
    keys = METHOD if experiment.budget is None else (*METHOD, "client.schedule")
    return json.dumps([_telling(_component(experiment, key), of(KINDS[key])) for key in keys], sort_keys=True)


def accepted(key: str, name: str) -> set[str] | None:
    """The hyperparameters of the component of a name that a dotted key of settings takes; None where it is not ours."""
    found = descriptions.of(KINDS[key]).get(name) if key in KINDS else None
    return None if found is None else {setting.name for setting in found.settings}


def _resolve(experiment: Experiment) -> dict[str, Any]:
    plain, data, server = experiment.dump(), experiment.data, experiment.server
    clients, share = data.clients, server.participation
    cohort = max(1, round(share * clients)) if isinstance(share, float) else share
    known = {name for name in names.names("datasets") if ":" not in name}
    right = (
        (experiment.method is None or expand(plain) == experiment)
        and isinstance(data.dataset, str)
        and data.dataset in known
        and data.fallback in {None, *known}
        and server.sampling in ("fixed", "independent")
        and cohort <= clients
        and not (isinstance(server.quorum, int) and server.quorum > cohort)
        and experiment.client.rho_schedule == Component(name="constant")
        and experiment.simulate.speed is None
        and experiment.simulate.bandwidth is None
        and signature(experiment) in descriptions.fitting()
    )
    if not right:
        raise _UncertainError
    for key in FILLED:
        plain = overrides.override(plain, {key: _with_defaults(_component(experiment, key), KINDS[key])})
    return plain


def _component(experiment: Experiment, key: str) -> Component:
    found: Any = reduce(getattr, key.split("."), experiment)
    return Component.model_validate(found)


def _described(component: Component, ours: Mapping[str, Description]) -> Description:
    if component.name not in ours:
        raise _UncertainError
    return ours[component.name]


def _telling(component: Component, ours: Mapping[str, Description]) -> dict[str, Any]:
    """A component as plain values without what is a plain number, unless its class looks at that too."""
    described, given = _described(component, ours), component.settings
    numbers = {setting.name for setting in described.settings if not described.checks and set(_types(setting)) <= {"number", "integer"}}
    return {"name": component.name, **{key: _plain(value) for key, value in given.items() if key not in numbers}}


def _plain(value: object) -> object:
    return value.model_dump(mode="json") if isinstance(value, Component) else value


def _with_defaults(component: Component, kind: str) -> dict[str, Any]:
    """A component as plain values with its defaults filled in; components inside it come last."""
    described, given = _described(component, descriptions.of(kind)), component.settings
    if set(given) - {setting.name for setting in described.settings}:
        raise _UncertainError
    values = {setting.name: _value(setting, given) for setting in described.settings}
    inner = [setting.name for setting in described.settings if "$ref" in setting.schema]
    plain = {name: value for name, value in values.items() if value is not None and name not in inner}
    nested = {name: _with_defaults(Component.model_validate(values[name]), kind) for name in inner}
    return {"name": component.name, **plain, **nested}


def _value(setting: Setting, given: Mapping[str, Any]) -> Any:
    """The value of a hyperparameter, as given or its default."""
    schema = setting.schema
    if setting.name not in given:
        if "default" not in schema:
            raise _UncertainError
        return schema["default"]
    value = given[setting.name]
    if "$ref" in schema:
        return {"name": value} if isinstance(value, str) else value
    option = next((option for option in _options(setting) if option.get("type") in TYPES and _fits(value, option)), None)
    if option is None:
        raise _UncertainError
    return float(value) if option["type"] == "number" else value


def _fits(value: object, schema: Mapping[str, Any]) -> bool:
    if "enum" in schema and value not in schema["enum"]:
        return False
    if "const" in schema or not isinstance(value, TYPES[schema["type"]]) or isinstance(value, bool) != (schema["type"] == "boolean"):
        return False
    return isinstance(value, bool | str) or (
        math.isfinite(value)  # type: ignore[arg-type]
        and schema.get("minimum", value) <= value
        and value <= schema.get("maximum", value)
        and not ("exclusiveMinimum" in schema and value <= schema["exclusiveMinimum"])
        and not ("exclusiveMaximum" in schema and value >= schema["exclusiveMaximum"])
    )


def _options(setting: Setting) -> Iterator[Mapping[str, Any]]:
    """What the schema of a setting allows, `null` aside."""
    yield from (option for option in setting.schema.get("anyOf", [setting.schema]) if option.get("type") != "null")


def _types(setting: Setting) -> list[str]:
    return [str(option.get("type")) for option in _options(setting)]
