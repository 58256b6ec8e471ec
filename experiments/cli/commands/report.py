"""`fedsam report`: print the leaderboard of runs and write their report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from experiments.cli.options import RUNS_DIR, Baseline, RunIds, RunsDir, Target
from experiments.cli.output import report_runs
from fedsam.config import ConfigError

EXAMPLES = (
    "fedsam report",
    "fedsam report 20260102-1530 20260103 --out compare",
    "fedsam report --runs-dir /scratch/runs --baseline sgd --target 0.6",
)


def command(
    ids: RunIds = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Folder to write to; default: reports/<first run> in the runs folder.")
    ] = None,
    runs_dir: RunsDir = RUNS_DIR,
    baseline: Baseline = None,
    target: Target = None,
) -> None:
    """Print the table of runs and write report.html, one file that opens offline, with its figures (PNG, SVG) and tables (CSV, LaTeX).

    RUN is the id of a run, or how it begins; default: all runs.
    """
    from fedsam.results.store import Results

    with Results.open(runs_dir, create=False) as results:
        found = [run.id for run in (results.find(ids) if ids else results.runs())]
    if not found:
        raise ConfigError(f"runs_dir: '{runs_dir}' holds no run yet; `fedsam run` makes one")
    report_runs(found, runs_dir, out, baseline=baseline, target_accuracy=target)
