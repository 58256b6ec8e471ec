"""Tables of a report as plain values, written as HTML, CSV and LaTeX from the same columns."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from experiments.analysis.format import number
from experiments.analysis.statistics import Estimate
from fedsam.formatting import no_formula

# None: there is no value; NaN: the run diverged. Units stand in titles or in the text of a value.
Value = Estimate | str | float | int | None

LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "×": r"$\times$",
    "ρ": r"$\rho$",
    "λ": r"$\lambda$",
    "–": "--",
    "−": "$-$",
    "<": "$<$",
    ">": "$>$",
    "[": "{[}",  # after the end of a line it would begin an option
    **{character: f"\\{character}" for character in "&%$#_{}"},
}


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        key: Name in CSV, where values are plain: fractions, seconds, bytes. An estimate has a second column, `<key>_half_width`.
        title: Heading; a line break marks where it may break.
        format: Turns a value that is neither a string nor missing into text.
    """

    key: str
    title: str
    format: Callable[[Any], str] = str

    def text(self, value: Value) -> str:
        """A value as text; a dash for None, `diverged` for NaN."""
        if value is None:
            return "–"
        if isinstance(value, str):
            return value
        if isinstance(value, float) and math.isnan(value):
            return number(Estimate(value, None))
        return self.format(value)


@dataclass(frozen=True)
class ResultTable:
    """A table: a value of each row for each column.

    Attributes:
        name: Stem of its file names.
        columns: From left to right.
        rows: One value for each column.
        block_starts: Indices of the rows that begin a block, which a rule sets off.
        best_rows: Indices of the rows that are highlighted.
    """

    name: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Value, ...], ...]
    block_starts: frozenset[int] = frozenset()
    best_rows: frozenset[int] = frozenset()

    @classmethod
    def of(
        cls, name: str, columns: Sequence[Column], rows: Sequence[Sequence[Value]], *, best_rows: Sequence[int] = (), by: str = ""
    ) -> ResultTable:
        """A table without the columns that have no value; a block begins where the value in the column `by` changes."""
        keys = [column.key for column in columns]
        used = [index for index in range(len(columns)) if any(row[index] is not None for row in rows)]
        blocks = [row[keys.index(by)] for row in rows] if by in keys else []
        starts = [index for index in range(1, len(blocks)) if blocks[index] != blocks[index - 1]]
        values = tuple(tuple(row[index] for index in used) for row in rows)
        return cls(name, tuple(columns[index] for index in used), values, frozenset(starts), frozenset(best_rows))

    @property
    def is_text(self) -> list[bool]:
        """For each column whether it holds strings."""
        return [any(isinstance(row[index], str) for row in self.rows) for index in range(len(self.columns))]

    def cells(self) -> list[list[str]]:
        """The values as text."""
        return [[column.text(value) for column, value in zip(self.columns, row, strict=True)] for row in self.rows]


def as_csv(table: ResultTable) -> str:
    """The table as CSV (RFC 4180): numbers in full precision, an empty cell for None, texts as of `no_formula`."""
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    estimates = [any(isinstance(row[index], Estimate) for row in table.rows) for index in range(len(table.columns))]
    named = zip(table.columns, estimates, strict=True)
    writer.writerow([key for column, two in named for key in ([column.key, f"{column.key}_half_width"] if two else [column.key])])
    for row in table.rows:
        writer.writerow([cell for value, two in zip(row, estimates, strict=True) for cell in _plain(value, two)])
    return buffer.getvalue()


def _plain(value: Value, two: bool) -> Iterator[object]:
    if isinstance(value, Estimate):
        yield from (value.mean, value.half_width)
    else:
        yield no_formula(value) if isinstance(value, str) else value
        if two:
            yield None


def as_latex(table: ResultTable) -> str:
    """The table as a LaTeX `tabular` with the rules of the package booktabs."""
    cells = table.cells()
    other = "".join(dict.fromkeys(c for row in cells for cell in row for c in cell if not c.isascii() and c not in LATEX))
    lines = [
        r"% \usepackage{booktabs}",
        *([rf"% XeLaTeX or LuaLaTeX, \usepackage{{fontspec}} and \setmainfont with a font that has {other}"] if other else []),
        rf"\begin{{tabular}}{{{''.join('l' if is_text else 'r' for is_text in table.is_text)}}}",
        r"\toprule",
        _latex_row(column.title.replace("\n", " ") for column in table.columns),
        r"\midrule",
    ]
    for index, row in enumerate(cells):
        if index in table.block_starts:
            lines.append(r"\addlinespace")
        lines.append(_latex_row(row))
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def _latex_row(cells: Iterable[str]) -> str:
    return " & ".join(escape_latex(cell) for cell in cells) + r" \\"


def escape_latex(text: str) -> str:
    r"""Text with the characters escaped that are special in LaTeX.

    >>> escape_latex("50 % ± 1_0")
    '50 \\% $\\pm$ 1\\_0'
    """
    return "".join(LATEX.get(character, character) for character in text)
