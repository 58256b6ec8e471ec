"""From a component's name and hyperparameters to what it names: an instance of a dataclass, or a function with its parameters bound.

A registry is a dict of names to dataclasses or functions, with the contract that components from elsewhere are held to: those written
`module:attribute`, and those that an installed package registers. The hyperparameters are read from the signature behind the name.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, is_dataclass
from functools import lru_cache, partial
from types import MappingProxyType
from typing import Any, ClassVar, Generic, Protocol, TypeVar, get_type_hints

from pydantic import BaseModel, ConfigDict, ValidationInfo, create_model, field_validator
from pydantic.errors import PydanticUserError

from fedsam import plugins
from fedsam.component import Component, ConfigError, validated, with_default_name
from fedsam.documentation import is_class_variable
from fedsam.renamed import current_name
from fedsam.wording import UnknownNameError

Entry = TypeVar("Entry", bound=Callable[..., Any])


class Contract(Protocol):
    """What the components of a kind are."""

    @property
    def leading(self) -> int:
        """How many arguments the caller gives; the others are hyperparameters."""

    @property
    def optional(self) -> tuple[str, ...]:
        """Names of arguments that the caller also gives, to those that take them."""

    @property
    def expected(self) -> str:
        """What a component is, in words."""

    def problem(self, entry: Any) -> str | None:
        """What is wrong with something that is to be a component; None where nothing is."""

    def bind(self, entry: Any, settings: Mapping[str, Any]) -> Any:
        """The component with its hyperparameters set."""


@dataclass(frozen=True)
class ClassContract:
    """Components are classes derived from `base`, frozen dataclasses whose fields are their hyperparameters."""

    base: type
    leading: ClassVar[int] = 0
    optional: ClassVar[tuple[str, ...]] = ()

    @property
    def expected(self) -> str:
        """As `Contract.expected`."""
        return f"a class derived from {self.base.__module__.rpartition('.base')[0] or self.base.__module__}.{self.base.__name__}"

    def problem(self, entry: Any) -> str | None:
        """As `Contract.problem`."""
        if not inspect.isclass(entry) or not issubclass(entry, self.base):
            return f"it is {_kind(entry)}, not {self.expected}"
        if missing := sorted(getattr(entry, "__abstractmethods__", ())):
            return f"{entry.__name__} does not define {' and '.join(missing)}"
        own = {name for name, hint in inspect.get_annotations(entry).items() if not is_class_variable(hint)}
        if not is_dataclass(entry) or ("__dataclass_params__" not in vars(entry) and own | {"__init__"} & set(vars(entry))):
            return f"{entry.__name__} must be a dataclass, its hyperparameters its fields: @dataclass(frozen=True, kw_only=True)"
        return None

    def bind(self, entry: Any, settings: Mapping[str, Any]) -> Any:
        """An instance."""
        return entry(**settings)


@dataclass(frozen=True)
class FunctionContract:
    """Components are functions of the arguments named in `arguments` and, if they like, in `optional`; the rest are hyperparameters."""

    arguments: tuple[str, ...]
    optional: tuple[str, ...] = ()

    @property
    def leading(self) -> int:
        """As `Contract.leading`."""
        return len(self.arguments)

    @property
    def expected(self) -> str:
        """As `Contract.expected`."""
        return f"a function of ({', '.join([*self.arguments, '*', 'hyperparameters'])})"

    def problem(self, entry: Any) -> str | None:
        """As `Contract.problem`."""
        if not callable(entry):
            return f"it is {_kind(entry)}, not {self.expected}"
        try:
            parameters = inspect.signature(entry).parameters.values()
        except (TypeError, ValueError):
            return f"its arguments cannot be told; expected {self.expected}"
        kinds = [p.kind for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.VAR_POSITIONAL)]
        if len(kinds) < self.leading and inspect.Parameter.VAR_POSITIONAL not in kinds:
            return f"it takes {len(kinds)} arguments, not {self.expected}"
        return None

    def bind(self, entry: Any, settings: Mapping[str, Any]) -> Any:
        """The function, its hyperparameters bound."""
        return partial(entry, **settings)


class Registry(dict[str, Entry], Generic[Entry]):
    """The components of one kind by name.

    Args:
        kind: In the plural, as `fedsam list` says it and the group `fedsam.KIND` of entry points.
        contract: What a component is.
        entries: Those of the product; a package whose components use the registry themselves adds them with `update`.
    """

    def __init__(self, kind: str, contract: Contract, entries: Mapping[str, Entry] = MappingProxyType({})) -> None:
        super().__init__(entries)
        self.kind, self.contract = kind, contract

    def find(self, name: str, where: str) -> Entry:
        """The component of a name, present or former: one of ours, one that an installed package registers, or `module:attribute`.

        Args:
            where: The key of the setting, for messages.

        Raises:
            ConfigError: There is none, or it is not what the registry holds.
        """
        if (current := current_name(self.kind, name)) in self:
            return self[current]
        if ":" in name:
            return self._checked(plugins.load(name, where), f"{where}: {name!r} is not allowed")
        registered = plugins.entry_points(self.kind)
        if name not in registered:
            raise UnknownNameError(where, name, [*self, *registered])
        point = registered[name]
        refused = f"{where}: {name!r}, which {plugins.origin(point)} registers, is not allowed"
        return self._checked(plugins.load(point.value, where), refused)

    def accepts(self, name: str, where: str) -> set[str]:
        """The hyperparameters of the component of a name. Raises as `find`."""
        return set(hyperparameters(self.find(name, where), self.contract.leading, self.contract.optional).model_fields)

    def _checked(self, found: Any, refused: str) -> Entry:
        if problem := self.contract.problem(found):
            raise ConfigError(f"{refused}: {problem}")
        entry: Entry = found
        return entry


def hyperparameters(entry: Callable[..., Any], leading: int | None = None, optional: Collection[str] = ()) -> type[BaseModel]:
    """The settings that a component accepts: the fields of a dataclass, or the parameters of a function after the caller's.

    Args:
        leading: How many parameters are the caller's; default: the positional ones without a default.
        optional: Names of others that are the caller's.

    Raises:
        ConfigError: The types of its parameters cannot be told.
    """
    # Classes and functions are equal only to themselves; an object that is called may compare as it likes, or have no hash.
    make = _hyperparameters if inspect.isclass(entry) or inspect.isfunction(entry) else _hyperparameters.__wrapped__
    return make(entry, leading, frozenset(optional))


@lru_cache(maxsize=512)  # a module that is imported again has new entries; the old ones go when there are so many
def _hyperparameters(entry: Callable[..., Any], leading: int | None, optional: frozenset[str]) -> type[BaseModel]:
    """As `hyperparameters`: making a pydantic class takes a millisecond."""
    try:
        hints = get_type_hints(entry, include_extras=True)
    except TypeError:  # an object that is called has none of its own
        hints = {}
    except NameError as error:
        raise ConfigError(f"{_name(entry)}: the types of its hyperparameters cannot be told: {error}") from None
    found = list(inspect.signature(entry).parameters.values())
    positional = [p for p in found if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    given = positional[:leading] if leading is not None else [p for p in positional if p.default is p.empty]
    open_ended = any(p.kind is p.VAR_KEYWORD for p in found)
    fields: dict[str, Any] = {
        p.name: (hints.get(p.name, Any), ... if p.default is p.empty else p.default)
        for p in found
        if p not in given and p.name not in optional and p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)
    }
    settings = ConfigDict(extra="allow" if open_ended else "forbid", protected_namespaces=(), arbitrary_types_allowed=True)
    defaults = {name: default for name, (_, default) in fields.items()}

    def named(value: object, info: ValidationInfo) -> object:
        return with_default_name(value, defaults[str(info.field_name)])

    try:
        validators: dict[str, Any] = {"named": field_validator("*", mode="before")(named)}
        return create_model(_name(entry), __config__=settings, __validators__=validators, **fields)
    except (PydanticUserError, NameError) as error:
        raise ConfigError(f"{_name(entry)}: the types of its hyperparameters cannot be used: {str(error).splitlines()[0]}") from None


def resolve(registry: Registry[Any], component: Component, where: str) -> dict[str, Any]:
    """The hyperparameters of a component, validated, defaults filled in.

    Args:
        where: The key of the component in the experiment (`client.optimizer`), for messages.

    Raises:
        ConfigError: There is no such component, a hyperparameter is unknown, or its value is not allowed.
    """
    entry = registry.find(component.name, where)
    model = validated(hyperparameters(entry, registry.contract.leading, registry.contract.optional), component.settings, where)
    return {name: getattr(model, name) for name in (*type(model).model_fields, *(model.model_extra or {}))}


def build(registry: Registry[Any], component: Component, where: str) -> Any:
    """What a component names: a dataclass instance, or the function with its parameters bound.

    Raises:
        ConfigError: As `resolve`, or a class of somebody else refuses its hyperparameters.
    """
    settings, entry = resolve(registry, component, where), registry.find(component.name, where)
    with plugins.component_errors(where, component.name):
        return registry.contract.bind(entry, settings)


def _kind(value: object) -> str:
    return f"the class {value.__name__}" if inspect.isclass(value) else f"a {type(value).__name__}"


def _name(entry: object) -> str:
    return str(getattr(entry, "__name__", type(entry).__name__))
