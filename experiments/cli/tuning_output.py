"""Tuning on the terminal: what it is going to take, and what was chosen."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.table import Table

from experiments.tuning.comparison import TunedStudy
from experiments.tuning.studies import value_text
from fedsam.formatting import duration, literal, plural


def tuning_note(studies: Sequence[TunedStudy], seconds: float | None, parallel: int) -> str:
    """What tuning takes before the final runs.

    Args:
        seconds: Of the runs that are left, one after another, if none is pruned; None where that is not known.
    """
    trials = [study.study.settings["trials"] for study in studies]
    made, left = sum(len(study.study.trials) for study in studies), sum(study.runs_left for study in studies)
    each = str(trials[0]) if len(set(trials)) == 1 else f"{min(trials)} to {max(trials)}"
    many = "studies" if len(studies) > 1 else "study"
    text = f"tuning: {len(studies)} {many} of {each} trials"
    if made:
        text += f", {made} of {sum(trials)} made before"
    if not left:
        return f"{text}; the final runs have the settings that were chosen"
    about = f", about {duration(seconds / parallel)}" if seconds is not None else ""
    return f"{text}; at most {plural(left, 'run')}{about}; then the final runs, with what is chosen"


def choices_table(studies: Sequence[TunedStudy]) -> Table:
    """What was chosen for each method and number of clients, and choices at the end of what was allowed."""
    result = Table(box=box.SIMPLE_HEAD, padding=(0, 0), header_style="bold")
    result.add_column("tuned", overflow="fold")
    for column in ("chosen", "validation", "trials", "of them\npruned", "at the end\nof its range"):
        result.add_column(column, overflow="fold", justify="left" if column == "chosen" else "right")
    for one in studies:
        study, chosen = one.study, one.study.chosen
        pruned = sum(trial.pruned for trial in study.trials)
        if chosen is None or chosen.value is None:
            result.add_row(literal(study.label), "failed", "–", str(len(study.trials)), str(pruned), "")
            continue
        values = ", ".join(f"{key.rpartition('.')[2]}={value}" for key, value in chosen.parameters.items())
        ends = ", ".join(key.rpartition(".")[2] for key in study.edges)
        cells = value_text(chosen.value, study.settings["metric"]), str(len(study.trials)), str(pruned)
        result.add_row(literal(study.label), literal(values), *cells, ends)
    return result
