"""`fedsam export`: write the results as Parquet or CSV files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from experiments.cli.options import RUNS_DIR, RunIds, RunsDir
from experiments.reporting.export import Format, export
from fedsam.optional import require

EXAMPLES = ("fedsam export", "fedsam export 20260102-1530 --format csv --out tables", "fedsam export --runs-dir /scratch/runs")


def command(
    ids: RunIds = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Folder to write to; default: export in the runs folder.")
    ] = None,
    kind: Annotated[Format, typer.Option("--format", help="Kind of files.")] = Format.PARQUET,
    runs_dir: RunsDir = RUNS_DIR,
) -> None:
    """Write every table of the results database (runs, rounds, measures, clients, label_distribution, classes, slices) to a file.

    RUN is the id of a run, or how it begins; default: all runs. Needs the package pyarrow.
    """
    from fedsam.results.store import Results

    require("pyarrow", "fedsam export")
    with Results.open(runs_dir, create=False) as results:
        runs = results.find(ids) if ids else results.runs()
    for path, rows in export(results.path, [run.id for run in runs], out or runs_dir / "export", kind).items():
        typer.echo(f"{path}: {rows} rows")
