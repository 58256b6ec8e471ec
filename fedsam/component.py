"""What settings are made of: tables whose keys and values are checked, and components, which are names with hyperparameters."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, cast

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from fedsam.wording import TOO_LARGE, explained, is_plain
from fedsam.wording import ConfigError as ConfigError

if TYPE_CHECKING:
    from pydantic._internal._model_construction import ModelMetaclass
else:
    ModelMetaclass = type(BaseModel)  # which has no public name

Settings = TypeVar("Settings", bound=BaseModel)


def validated(model: type[Settings], settings: Mapping[str, Any], where: str = "") -> Settings:
    """`settings` as a `model`; errors are `ConfigError`s whose keys start at `where`."""
    try:
        return model.model_validate(settings)
    except ValidationError as error:
        raise _refusal(model, error, where) from None


def _refusal(model: type[BaseModel], error: ValidationError, where: str = "") -> ConfigError:
    return ConfigError("\n".join(sorted({explained(model, item, where) for item in error.errors()})))


class _Settings(ModelMetaclass):
    """Classes whose instances, where they are made of keywords, refuse wrong values as a file's are: by a `ConfigError`."""

    def __call__(cls, *arguments: Any, **values: Any) -> Any:
        try:
            return super().__call__(*arguments, **values)
        except ValidationError as error:
            raise _refusal(cast(type[BaseModel], cls), error) from None


def _plain(value: object) -> object:
    if value is None or isinstance(value, Component) or is_plain(value):
        return value
    raise PydanticCustomError("plain", "must be text, a number, true or false, or a list or table of them")


def _path(path: Path) -> Path:
    if "\0" in str(path):
        raise PydanticCustomError("path", "must be a path, which has no null character")
    return path


Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1, lt=TOO_LARGE)]
CountOrZero = Annotated[int, Field(ge=0, lt=TOO_LARGE)]
Folder = Annotated[Path, AfterValidator(_path)]


class Component(BaseModel, metaclass=_Settings):
    """A name and its hyperparameters: `{name = "sam", rho = 0.1}`, or just `"sam"`."""

    model_config = ConfigDict(frozen=True, extra="allow")
    __pydantic_extra__: dict[str, Annotated[Any, AfterValidator(_plain)]]
    name: str

    @property
    def settings(self) -> dict[str, Any]:
        """The hyperparameters that were given, without the name."""
        return dict(self.model_extra or {})


def with_default_name(value: object, default: object) -> object:
    """A table of hyperparameters alone, with the name of the component that is there by default; other values as they are."""
    if isinstance(default, Component) and isinstance(value, dict) and "name" not in value:
        return {"name": default.name, **value}
    return value


class Frozen(BaseModel, metaclass=_Settings):
    """A settings table: immutable, and every key must be known."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, defer_build=True)

    @field_validator("*", mode="before")
    @classmethod
    def _with_default_name(cls, value: object, info: ValidationInfo) -> object:
        return with_default_name(value, cls.model_fields[str(info.field_name)].default)


def as_component(value: object) -> object:
    """What a component is validated from: a name alone is one without hyperparameters."""
    return {"name": value} if isinstance(value, str) else value


def _as_name_or_component(value: object) -> object:
    """A name, or a component with hyperparameters: a table of a name alone is that name, so that the two are one experiment."""
    component = validated(Component, value) if isinstance(value, Mapping) and isinstance(value.get("name"), str) else value
    if not isinstance(component, str | Component):
        raise PydanticCustomError("name_or_component", "must be a name, or a table with a name")
    return component.name if isinstance(component, Component) and not component.settings else component


Named = Annotated[Component, BeforeValidator(as_component)]
NameOrComponent = Annotated[str | Component, BeforeValidator(_as_name_or_component)]
