"""Tables for the terminal: costs of optimizers, declared beside measured, and sources."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from clients.optimizers import OPTIMIZERS
from clients.optimizers.sam import SAM
from experiments.cli.console_tables import shown
from experiments.settings import step_cost
from experiments.settings.describing import source


def test_only_optimizers_have_costs_of_their_own() -> None:
    tables = shown("optimizers", ["looksam", "gf"])
    assert [table.title for table in tables] == ["optimizers", "costs of optimizers"]
    assert [list(column.cells) for column in tables[1].columns][:3] == [["looksam"], ["0"], ["0"]]
    assert len(shown("partitions", ["iid"])) == 1


def test_every_method_declares_its_source() -> None:
    assert all(source(method) for method in OPTIMIZERS.values())
    assert source(SAM).startswith("Source: Foret") and source(SAM).endswith("inside both passes.")


def test_an_inherited_cost_is_not_the_classs_own() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Bare(SAM):
        """Nothing is said of costs."""

    with pytest.raises(ValueError, match=r"Bare has no `cost` of its own, such as StepCost\(backward=2\)"):
        step_cost.declared(Bare)
