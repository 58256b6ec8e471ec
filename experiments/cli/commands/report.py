"""`fedsam report`: print the leaderboard of runs and write their report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from experiments.cli.options import RUNS_DIR, Baseline, RunIds, RunsDir, Target
from experiments.cli.output import FAILED, check_folder, print_line, report_runs
from fedsam.formatting import plural
from fedsam.wording import ConfigError

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

    RUN is the id of a run, or how it begins; default: all runs but the trials of tuning, in a report for each dataset and length, since
    runs of 2 and of 40 rounds cannot be compared. Exit code 1: a part of it could not be written.
    """
    from experiments.reporting.groups import baselines, comparable
    from fedsam.results.store import Results

    with Results.open(runs_dir, create=False) as results:
        trials = results.trial_runs()
        groups = {"": results.find(ids)} if ids else comparable([run for run in results.runs() if run.id not in trials])
        if not groups:
            raise ConfigError(f"runs_dir: '{runs_dir}' holds no run yet; `fedsam run` makes one")
        check_folder(out or runs_dir / "reports", "out")
        compared_with, written = baselines(groups, baseline, results), []
    for title, runs in groups.items():
        if len(groups) > 1:
            print_line(f"{title}: {plural(len(runs), 'run')}")
        folder = out / runs[0].id if out and len(groups) > 1 else out
        written.append(report_runs([run.id for run in runs], runs_dir, folder, baseline=compared_with[title], target_accuracy=target))
    if not all(written):
        raise typer.Exit(FAILED)
