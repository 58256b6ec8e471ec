"""Tuning as the page shows it: for each study how far it is, the best trial so far, and what that tried."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from experiments.watching import cells
from experiments.watching.cells import Cell, table
from fedsam.formatting import printable
from fedsam.results.tuning import Study

MOST_STUDIES = 60  # rows of the table


def study_table(studies: Sequence[Study]) -> dict[str, Any]:
    """The newest of the studies."""
    columns = ("method", ">trials", ">pruned", ">best", "with")
    return table("tuning", "Tuning", columns, [_row(study) for study in studies[-MOST_STUDIES:]])


def _row(study: Study) -> list[Cell]:
    best, wanted = study.chosen, study.settings["trials"]
    ended = [trial for trial in study.trials if trial.value is not None]
    text = f"{len(ended)}/{wanted}"
    made: Cell = text if len(ended) == wanted else {"text": text, "bar": len(ended) / wanted}
    values = ", ".join(f"{key.rpartition('.')[2]}={value}" for key, value in best.parameters.items()) if best else "–"
    value = cells.value_text(best.value if best else None, study.settings["metric"])
    return [printable(study.label), made, str(sum(trial.pruned for trial in ended)), value, printable(values)]
