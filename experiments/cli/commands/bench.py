"""`fedsam bench`: how fast fedsam and its peers are."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from experiments.benchmarks.contenders import WAYS, asked
from experiments.benchmarks.workloads import WORKLOADS
from experiments.cli.output import FAILED, check_file, graceful_shutdown, print_error
from fedsam.config import ConfigError
from fedsam.wording import nearest

EXAMPLES = (
    "fedsam bench --quick",
    "fedsam bench lenet5-10x500 lenet5-100x50 --ways floor,ray,flower --json bench.json --figure bench.png",
    "fedsam bench --pfl-python ~/pfl/bin/python   # also pfl-research, from an environment of its own",
)


def command(
    workloads: Annotated[list[str] | None, typer.Argument(metavar="[WORKLOAD]...", show_default=False)] = None,
    ways: Annotated[str, typer.Option("--ways", metavar="NAMES", help=f"Ways to compare, with commas between: {', '.join(WAYS)}.")] = "",
    rounds: Annotated[int, typer.Option("--rounds", min=2, help="Rounds of a run; the first one counts as start-up.")] = 6,
    repeats: Annotated[int, typer.Option("--repeats", min=1, help="Runs of each way, in turns with the others.")] = 3,
    actors: Annotated[int, typer.Option("--actors", min=1, help="Processes of one thread that train.")] = 2,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of images, partitions and weights.")] = 0,
    quick: Annotated[bool, typer.Option("--quick", help="One run of three rounds of the first workload.")] = False,
    pfl_python: Annotated[
        Path | None, typer.Option("--pfl-python", metavar="FILE", help="Python of an environment that has pfl-research.")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Also write everything measured as JSON.")] = None,
) -> None:
    """Compare fedsam with bare PyTorch and with other simulators: the same work, the same numbers, in turns."""
    chosen = [WORKLOADS[name] for name in _known(workloads or list(WORKLOADS), WORKLOADS, "WORKLOAD")]
    pythons = {"pfl": pfl_python} if pfl_python else {}
    names = (
        _known([name.strip() for name in ways.split(",")], WAYS, "ways") if ways else [name for name in WAYS if name != "pfl" or pythons]
    )
    if json_file:
        check_file(json_file, "json")
    if quick:
        chosen, rounds, repeats = chosen if workloads else chosen[:1], 3, 1

    from experiments.benchmarks.comparison import Plan, compare, summaries
    from experiments.benchmarks.comparison_table import workload_table
    from experiments.benchmarks.files import Files
    from experiments.benchmarks.measurement import WayError

    plan = Plan(workloads=chosen, ways=asked(names), rounds=rounds, repeats=repeats, pythons=pythons)
    console = Console()
    with tempfile.TemporaryDirectory(prefix="fedsam-bench-") as folder, graceful_shutdown("interrupted"):
        try:
            runs = compare(plan, Files(Path(folder), seed, actors), lambda text: print(text, flush=True))
        except WayError as error:
            print_error(str(error))
            raise typer.Exit(FAILED) from None
    for workload in chosen:
        console.print(workload_table(plan, workload, summaries(runs)))


def _known(given: Sequence[str], known: object, option: str) -> list[str]:
    names = list(known)  # type: ignore[call-overload]
    for name in given:
        if name not in names:
            raise ConfigError(f"{option}: {name!r} is not known{nearest(name, names)}; allowed: {', '.join(names)}")
    return list(given)
