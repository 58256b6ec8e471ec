"""`fedsam doctor`: check this machine."""

from __future__ import annotations

import typer
from rich.table import Table
from rich.text import Text

from experiments.cli.options import RUNS_DIR, AllowOpen, DataRoot, RayAddress, RunsDir
from experiments.cli.output import FAILED, graceful_shutdown, print_table
from fedsam.formatting import literal
from fedsam.wording import ConfigError

EXAMPLES = (
    "fedsam doctor",
    "fedsam doctor --data-root /data --runs-dir /scratch/runs",
    "fedsam doctor --ray-address 10.0.0.1:6379   # versions and size of a cluster",
)
COLOURS = {"ok": "green", "warning": "yellow", "problem": "bold red"}


def command(
    data_root: DataRoot = None,
    runs_dir: RunsDir = RUNS_DIR,
    ray_address: RayAddress = None,
    allow_unauthenticated_cluster: AllowOpen = False,
) -> None:
    """Check Python, packages, GPU, Ray, data, memory, disk and limits of this machine, and say what would run where.

    Each warning and problem comes with what to do about it. Ray is started once, or joined at --ray-address, which takes some seconds.
    Exit code 1: a problem.
    """
    from fedsam.config import Compute

    compute = Compute(ray_address=ray_address, allow_unauthenticated_cluster=allow_unauthenticated_cluster)
    from experiments.diagnostics import checks
    from fedsam.data.datasets import DataError, data_folder

    try:
        root = data_folder(data_root)
    except DataError as error:
        raise ConfigError(str(error)) from None
    with graceful_shutdown("interrupted; Ray is stopped"):
        found = list(checks.examine(root, runs_dir, compute))
    table = Table("Check", "Found", "Verdict", "What to do")
    for check in found:
        table.add_row(check.name, literal(check.found), Text(check.verdict, COLOURS[check.verdict]), literal(check.fix))
    print_table(table)
    if checks.worst_verdict(found) == "problem":
        raise typer.Exit(FAILED)
