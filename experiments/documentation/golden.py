"""What recorded trajectories prove of a component or method."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import NamedTuple

from experiments.documentation.markdown import code, escaped, table
from fedsam.formatting import plural


class GoldenCase(NamedTuple):
    """A recorded trajectory that the tests replay.

    Attributes:
        kind: `optimizers` or `methods`.
        name: Of what is replayed.
        file: Below `tests/golden/`.
        id: Of the case in the file.
        source: Whose code computed it.
        note: What the case exercises.
        length: Steps of an optimizer, rounds of a method.
        tolerance: The largest deviation that passes.
    """

    kind: str
    name: str
    file: str
    id: str
    source: str
    note: str
    length: int
    tolerance: str


def of(cases: Iterable[GoldenCase], kind: str, name: str) -> list[GoldenCase]:
    """The cases of a component or method."""
    return [case for case in cases if (case.kind, case.name) == (kind, name)]


def proof(cases: Sequence[GoldenCase]) -> str:
    """What the cases of one component or method prove: a paragraph, and a table of them."""
    if not cases:
        return "No trajectory is recorded: the contract tests and tests of its own stand for it."
    unit, what = ("step", "the weights") if cases[0].kind == "optimizers" else ("round", "all local models and the global model")
    lines = [f"The tests replay the trajectories below in float64 and compare {what} after every {unit}."]
    for source, same in groupby(sorted(cases, key=lambda case: case.source), key=lambda case: case.source):
        lines.append(f"- {plural(len(list(same)), 'case')} computed by {_by(source)}.")
    rows = [[code(case.id), f"{case.length} {unit}s", case.tolerance, escaped(case.note)] for case in cases]
    files = ", ".join(code(f"tests/golden/{file}") for file in dict.fromkeys(case.file for case in cases))
    return "\n\n".join([lines[0], "\n".join(lines[1:]), table(["case", "length", "tolerance", "note"], rows), f"In {files}."])


def _by(source: str) -> str:
    return "the equations, written down a second time and independently" if source == "equations" else escaped(source)
