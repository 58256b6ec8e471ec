"""Components say themselves what they are: declared sources and hyperparameters reach `help`, inherited ones included."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Annotated, ClassVar

import pytest
from pydantic import Field

from clients.optimizers.esam import ESAM
from fedsam import documentation
from fedsam.config import Positive
from fedsam.documentation import Documented, descriptions, documented, hyperparameter


@dataclass(frozen=True, kw_only=True)
class Base(Documented):
    """A base."""

    kind: ClassVar[str] = "base"
    lr: Positive = hyperparameter(0.1, "Learning rate.")
    bare: int = 3


@dataclass(frozen=True, kw_only=True)
class Derived(Base):
    """A derived component.

    It has a second paragraph.
    """

    source: ClassVar[str] = "Somebody, 2020."
    lr: Positive = 0.5
    rho: float | None = hyperparameter(None, "Radius.")


def test_a_docstring_is_extended_by_source_and_hyperparameters() -> None:
    assert Derived.__doc__ == (
        "A derived component.\n\nIt has a second paragraph.\n\nSource: Somebody, 2020.\n\nHyperparameters:\n"
        "    lr (number > 0; default 0.5): Learning rate.\n    bare (whole number; default 3)\n"
        "    rho (number | unset; default unset): Radius."
    )
    assert (
        Base.__doc__ == "A base.\n\nHyperparameters:\n    lr (number > 0; default 0.1): Learning rate.\n    bare (whole number; default 3)"
    )


def test_a_changed_default_keeps_its_meaning() -> None:
    assert Derived() == Derived(lr=0.5, bare=3, rho=None)
    assert descriptions(Derived) == {"lr": "Learning rate.", "rho": "Radius."}


def test_a_class_without_fields_says_its_source_alone() -> None:
    class Plain(Documented):
        """Plain."""

        source: ClassVar[str] = "Nobody."

    assert Plain.__doc__ == "Plain.\n\nSource: Nobody."


def test_a_type_that_cannot_be_told_stands_as_it_is_written() -> None:
    Share = Annotated[float, Field(gt=0, le=1)]

    @dataclass(frozen=True, kw_only=True)
    class Local(Derived):
        """Local."""

        share: Share = 0.5
        parts: tuple[int, ...] = dataclasses.field(default_factory=tuple)
        other: Unknown = None  # type: ignore[name-defined]  # noqa: F821 - a name that there is not
        needed: Annotated[int, Field(ge=2)]

    lines = str(Local.__doc__).splitlines()[-4:]
    expected = [
        "share (Share; default 0.5)",
        "parts (list of (whole number); default [])",
        "other (Unknown; default unset)",
        "needed (whole number >= 2)",
    ]
    assert [line.strip() for line in lines] == expected


def test_a_function_says_the_same_of_its_hyperparameters() -> None:
    @documented(source="Somebody.", alpha="Concentration.", warp="Whatever.")
    def part(labels: list[int], *, alpha: Positive = 0.3, **settings: float) -> None:
        """A part."""

    assert part.__doc__ == (
        "A part.\n\nSource: Somebody.\n\nHyperparameters:\n    alpha (number > 0; default 0.3): Concentration.\n    warp: Whatever."
    )


def test_an_optimizer_says_its_cost() -> None:
    lines = str(ESAM.__doc__).splitlines()
    assert "    lr (number > 0; default 0.1): Learning rate; the experiment's schedule multiplies it." in lines
    assert lines[-1] == (
        "Cost: 1 forward, 1 + gamma - 1/B forward and backward, per example and local step; B examples in a batch; "
        "from gamma = 0.99 on 0 forward, 2 forward and backward."
    )


def test_words_for_types_are_looked_for_when_somebody_reads_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documentation, "schema_of", lambda _: pytest.fail("not at import"))

    @dataclass(frozen=True, kw_only=True)
    class Unread(Base):
        """Unread."""

    monkeypatch.setattr(documentation, "schema_of", lambda _: {"type": "text"})
    assert "lr (any; default 0.1)" in str(Unread.__doc__)
