"""Components say themselves what they are: declared sources and hyperparameters reach `help`, inherited ones included."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fedsam.config import Positive
from fedsam.documentation import Documented, descriptions, hyperparameter


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
        "    lr (Positive): Learning rate.\n    bare (int)\n    rho (float | None): Radius."
    )
    assert Base.__doc__ == "A base.\n\nHyperparameters:\n    lr (Positive): Learning rate.\n    bare (int)"


def test_a_changed_default_keeps_its_meaning() -> None:
    assert Derived() == Derived(lr=0.5, bare=3, rho=None)
    assert descriptions(Derived) == {"lr": "Learning rate.", "rho": "Radius."}


def test_a_class_without_fields_says_its_source_alone() -> None:
    class Plain(Documented):
        """Plain."""

        source: ClassVar[str] = "Nobody."

    assert Plain.__doc__ == "Plain.\n\nSource: Nobody."
