"""`fedsam doctor`: what is wrong with this machine, before anything starts."""

from __future__ import annotations

import os
from pathlib import Path

import typer
from rich.markup import escape
from rich.table import Table

from experiments.commands.options import RUNS_DIR, DataRoot, RunsDir
from experiments.commands.output import FAILED, print_table

EXAMPLES = ("fedsam doctor", "fedsam doctor --data-root /data --runs-dir /scratch/runs")
COLOURS = {"ok": "green", "warning": "yellow", "problem": "bold red"}


def command(data_root: DataRoot = None, runs_dir: RunsDir = RUNS_DIR) -> None:
    """Check Python, packages, GPU, Ray, data, memory, disk and limits of this machine, and say what would run where.

    Each warning and problem comes with what to do about it. Ray is started once, which takes some seconds. Exit code 1: a problem.
    """
    from experiments import doctor

    root = Path(data_root or os.environ.get("FEDSAM_DATA") or "~/.cache/fedsam").expanduser()
    checks = list(doctor.examine(root, runs_dir))
    table = Table("Check", "Found", "Verdict", "What to do")
    for check in checks:
        table.add_row(check.name, escape(check.found), f"[{COLOURS[check.verdict]}]{check.verdict}[/]", escape(check.fix))
    print_table(table)
    if doctor.worst(checks) == "problem":
        raise typer.Exit(FAILED)
