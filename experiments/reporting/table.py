"""Tables of a report as plain values, which the page, CSV and LaTeX show alike."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from experiments.analysis.format import number
from experiments.analysis.statistics import Estimate

# A dash stands for what there is not; NaN for what diverged. Units are in the titles or in the text of a value.
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
    "[": "{[}",  # behind a line's end it would begin an option
    **{character: f"\\{character}" for character in "&%$#_{}"},
}


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        key: In CSV, where values are plain: fractions, seconds, bytes. An estimate has a second column, `<key>_half_width`.
        title: For a person; a line break where it may break.
        show: A value that is neither a string nor missing, for a person.
    """

    key: str
    title: str
    show: Callable[[Any], str] = str

    def text(self, value: Value) -> str:
        """A value as a person reads it."""
        if value is None:
            return "–"
        if isinstance(value, str):
            return value
        if isinstance(value, float) and math.isnan(value):
            return number(Estimate(value, None))
        return self.show(value)


@dataclass(frozen=True)
class Sheet:
    """A table: a value of each row for each column.

    Attributes:
        name: Of its files.
        starts: Indices of the rows that begin a block, which a rule sets off.
        best: Indices of the rows that are set off as the best ones.
    """

    name: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Value, ...], ...]
    starts: frozenset[int] = frozenset()
    best: frozenset[int] = frozenset()

    @classmethod
    def of(cls, name: str, columns: Sequence[Column], rows: Sequence[Sequence[Value]], *, best: Sequence[int] = (), by: str = "") -> Sheet:
        """A table without the columns in which no row has a value; a block begins where the value in the column `by` changes."""
        keys = [column.key for column in columns]
        kept = [place for place in range(len(columns)) if any(row[place] is not None for row in rows)]
        blocks = [row[keys.index(by)] for row in rows] if by in keys else []
        starts = [place for place in range(1, len(blocks)) if blocks[place] != blocks[place - 1]]
        cells = tuple(tuple(row[place] for place in kept) for row in rows)
        return cls(name, tuple(columns[place] for place in kept), cells, frozenset(starts), frozenset(best))

    @property
    def worded(self) -> list[bool]:
        """For each column whether it holds words."""
        return [any(isinstance(row[place], str) for row in self.rows) for place in range(len(self.columns))]

    def shown(self) -> list[list[str]]:
        """The cells as a person reads them."""
        return [[column.text(value) for column, value in zip(self.columns, row, strict=True)] for row in self.rows]


def as_csv(sheet: Sheet) -> str:
    """The table as CSV (RFC 4180): numbers in full, an empty cell for what is missing."""
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    estimates = [any(isinstance(row[place], Estimate) for row in sheet.rows) for place in range(len(sheet.columns))]
    named = zip(sheet.columns, estimates, strict=True)
    writer.writerow([key for column, two in named for key in ([column.key, f"{column.key}_half_width"] if two else [column.key])])
    for row in sheet.rows:
        writer.writerow([cell for value, two in zip(row, estimates, strict=True) for cell in _plain(value, two)])
    return buffer.getvalue()


def _plain(value: Value, two: bool) -> Iterator[object]:
    if isinstance(value, Estimate):
        yield from (value.mean, value.half_width)
    else:
        yield value
        if two:
            yield None


def as_latex(sheet: Sheet) -> str:
    """The table as a LaTeX `tabular` with the rules of the package booktabs."""
    lines = [
        r"% \usepackage{booktabs}",
        rf"\begin{{tabular}}{{{''.join('l' if words else 'r' for words in sheet.worded)}}}",
        r"\toprule",
        _row(column.title.replace("\n", " ") for column in sheet.columns),
        r"\midrule",
    ]
    for place, row in enumerate(sheet.shown()):
        lines += [r"\addlinespace"] * (place in sheet.starts) + [_row(row)]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def _row(cells: Iterator[str] | Sequence[str]) -> str:
    return " & ".join(escaped(cell) for cell in cells) + r" \\"


def escaped(text: str) -> str:
    r"""Text as LaTeX prints it.

    >>> escaped("50 % ± 1_0")
    '50 \\% $\\pm$ 1\\_0'
    """
    return "".join(LATEX.get(character, character) for character in text)
