"""Tables as CSV and LaTeX."""

from __future__ import annotations

import csv
import io
import math

import pytest

from experiments.analysis.format import number, percent
from experiments.analysis.statistics import Estimate
from experiments.reporting.table import Column, ResultTable, as_csv, as_latex, escape_latex

COLUMNS = [Column("method", "method"), Column("clients", "clients"), Column("accuracy", "test\naccuracy", percent), Column("empty", "none")]
ROWS = [
    ['a, "b" & c_1', 4, Estimate(0.5, 0.0125), None],
    ["[x]", 4, Estimate(0.25, None), None],
    ["diverged", 10, Estimate(math.nan, None), None],
    ["missing", 10, None, None],
]
TABLE = ResultTable.of("some", COLUMNS, ROWS, by="clients", best_rows=[0])


def test_columns_without_a_value_are_left_out_and_blocks_begin_where_the_value_changes() -> None:
    assert [column.key for column in TABLE.columns] == ["method", "clients", "accuracy"]
    assert (TABLE.block_starts, TABLE.best_rows, TABLE.is_text) == ({2}, {0}, [True, False, False])
    assert [row[2] for row in TABLE.cells()] == ["50.00 ± 1.25 %", "25.00 %", "diverged", "–"]


def test_csv_has_numbers_in_full_and_half_widths_in_a_column_of_their_own() -> None:
    assert list(csv.DictReader(io.StringIO(as_csv(TABLE)))) == [
        {"method": 'a, "b" & c_1', "clients": "4", "accuracy": "0.5", "accuracy_half_width": "0.0125"},
        {"method": "[x]", "clients": "4", "accuracy": "0.25", "accuracy_half_width": ""},
        {"method": "diverged", "clients": "10", "accuracy": "nan", "accuracy_half_width": ""},
        {"method": "missing", "clients": "10", "accuracy": "", "accuracy_half_width": ""},
    ]


def test_latex_has_the_rules_of_booktabs_and_escapes() -> None:
    assert as_latex(TABLE).splitlines() == [
        r"% \usepackage{booktabs}",
        r"\begin{tabular}{lrr}",
        r"\toprule",
        r"method & clients & test accuracy \\",
        r"\midrule",
        r'a, "b" \& c\_1 & 4 & 50.00 $\pm$ 1.25 \% \\',
        r"{[}x] & 4 & 25.00 \% \\",
        r"\addlinespace",
        r"diverged & 10 & diverged \\",
        r"missing & 10 & -- \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]


@pytest.mark.parametrize("character", list("&%$#_{}~^\\"))
def test_no_special_character_of_latex_stays_bare(character: str) -> None:
    assert escape_latex(character) != character and escape_latex(character).startswith("\\")


def test_names_are_text_in_csv_and_latex() -> None:
    names = ["=1+1", "_sam", "cost $5 or $6", r"$\rho_{bad$ 100% & <b>#1</b>", "αβ 中文"]
    table = ResultTable.of("names", [Column("method", "method"), Column("x", "x")], [[name, 1] for name in names])
    assert [row["method"] for row in csv.DictReader(io.StringIO(as_csv(table)))] == ["'=1+1", *names[1:]]
    latex = as_latex(table)
    assert r"\$\textbackslash{}rho\_\{bad\$ 100\% \& $<$b$>$\#1$<$/b$>$ & 1 \\" in latex
    assert r"% XeLaTeX or LuaLaTeX, \usepackage{fontspec} and \setmainfont with a font that has αβ中文" in latex


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Estimate(2.3e26, None), "2.30e+26"),
        (Estimate(2.3e26, 1e27), "2.30e+26 ± 1e+27"),
        (Estimate(1.5, 1e9), "1.50e+00 ± 1e+09"),
        (Estimate(123.4, None), "123.400"),
        (Estimate(2e-7, None), "2.00e-07"),
        (Estimate(0.0, None), "0.000"),
        (Estimate(math.inf, None), "diverged"),
    ],
)
def test_large_and_small_numbers_are_in_scientific_notation(value: Estimate, text: str) -> None:
    assert number(value) == text
