"""Tables for the terminal: costs of optimizers, declared beside measured, and sources without them."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from clients.optimizers import OPTIMIZERS
from clients.optimizers.sam import SAM
from experiments.cli.console_tables import costs, shown, source
from experiments.settings import step_cost


def test_costs_stand_side_by_side_and_agree() -> None:
    table = costs(OPTIMIZERS)
    names, *columns, where = ([str(cell) for cell in column.cells] for column in table.columns)
    assert names == list(OPTIMIZERS)
    forward, forward_measured, backward, backward_measured = columns
    for declared, measured in ((forward, forward_measured), (backward, backward_measured)):
        assert [text.rpartition("= ")[2] for text in declared] == measured
    row = dict(zip(names, zip(forward, backward, where, strict=True), strict=True))
    assert row["sam"] == ("0", "2", "")
    assert row["looksam"] == ("0", "1 + 1/k = 1.2", "k = 5")
    assert row["esam"] == (
        "1",
        "1 + gamma - 1/B = 1.375",
        "gamma = 0.5, B = 8, beta = 0.6\nfrom gamma = 0.99 on 0 forward, 2 forward and backward",
    )


def test_shares_that_depend_on_the_training_are_within_their_limits() -> None:
    shares = {name: step_cost.on_toy(name, OPTIMIZERS[name])[2].p for name in ("vsam", "aesam")}
    assert 0 < shares["vsam"] <= 0.8
    assert 0 < shares["aesam"] < 1


def test_only_optimizers_have_costs_of_their_own() -> None:
    assert [table.title for table in shown("optimizers", {"sam": SAM})] == ["optimizers", "costs of optimizers"]
    assert len(shown("partitions", {"sam": SAM})) == 1


def test_every_method_declares_its_source() -> None:
    assert all(source(method) for method in OPTIMIZERS.values())
    assert source(SAM).startswith("Source: Foret") and source(SAM).endswith("inside both passes.")


def test_an_inherited_cost_is_not_the_classs_own() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Bare(SAM):
        """Nothing is said of costs."""

    with pytest.raises(ValueError, match=r"Bare has no `cost` of its own, such as StepCost\(backward=2\)"):
        step_cost.declared(Bare)
