"""`fedsam bench`: how fast fedsam and its peers are."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from experiments.benchmarks.contenders import WAYS, chosen_ways
from experiments.benchmarks.workloads import GROWTH, WORKLOADS
from experiments.cli.output import FAILED, check_file, graceful_shutdown, print_error, print_line
from fedsam.formatting import plural
from fedsam.wording import ConfigError, nearest

if TYPE_CHECKING:
    from experiments.benchmarks.comparison import Plan

EXAMPLES = (
    "fedsam bench --quick",
    "fedsam bench lenet5-10x500 lenet5-100x50 --ways floor,ray,flower --json bench.json --figure bench.png",
    "fedsam bench noop-100 --growth",
    "fedsam bench --pfl-python ~/pfl/bin/python   # also pfl-research, in an environment of its own",
)
ROUNDS, REPEATS, QUICK_ROUNDS = 6, 3, 3


def command(
    workloads: Annotated[list[str] | None, typer.Argument(metavar="[WORKLOAD]...", show_default=False)] = None,
    ways: Annotated[
        str,
        typer.Option(
            "--ways", metavar="NAMES", help=f"Ways to compare, with commas between, of {', '.join(WAYS)}; default: all there are."
        ),
    ] = "",
    rounds: Annotated[
        int | None, typer.Option("--rounds", min=2, help="Rounds of a run, the first of which counts as start-up; default: 6.")
    ] = None,
    repeats: Annotated[int | None, typer.Option("--repeats", min=1, help="Runs of each way, in turns with the others; default: 3.")] = None,
    actors: Annotated[int, typer.Option("--actors", min=1, help="Processes that train, of one thread each.")] = 2,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of images, partitions, weights, cohorts and batches.")] = 0,
    growth: Annotated[bool, typer.Option("--growth", help="Also: more clients, larger cohorts and models, more actors.")] = False,
    commands: Annotated[bool, typer.Option("--commands", help="Also: the CPU time of commands that start nothing.")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="By default one run of three rounds, and only the first workload.")] = False,
    pfl_python: Annotated[
        Path | None, typer.Option("--pfl-python", metavar="FILE", help="Python of an environment with pfl-research; default: this one's.")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Also write all that is measured as JSON.")] = None,
    figure: Annotated[Path | None, typer.Option("--figure", metavar="FILE", help="Also draw it, as PNG or SVG.")] = None,
) -> None:
    """Measure how fast fedsam is, beside bare PyTorch and other simulators that do the same work, in turns; show medians.

    WORKLOAD is one of lenet5-10x500, lenet5-100x50, cnn-10x500 (the model, clients of a round x images of a client), noop-100, noop-10000,
    noop-100000 (clients that send back what they got; registered clients); default: all. Images are synthetic, so no data is needed.

    The floor is a loop without a framework: as many processes as there are actors, with images preloaded as floats. Every run has a
    process of its own, and is measured from outside: the time of a round, CPU seconds of all processes for each client, the time from the
    start of the process to the end of round 1, and the most memory of all processes (PSS). With all workloads it takes about an hour.
    Times are only worth comparing on an otherwise idle machine; CPU seconds bear some load. A run that fails is left out, and the exit code
    is 1.
    """
    default = list(WORKLOADS)[:1] if quick else list(WORKLOADS)
    chosen = [WORKLOADS[name] for name in _known(workloads or default, WORKLOADS, "WORKLOAD")]
    rounds, repeats = rounds or (QUICK_ROUNDS if quick else ROUNDS), repeats or (1 if quick else REPEATS)
    pythons = {"pfl": _python(pfl_python)} if pfl_python else {}
    there = [name for name in WAYS if name != "pfl" or pythons or find_spec("pfl")]
    names = list(chosen_ways(_known([name.strip() for name in ways.split(",")], WAYS, "ways") if ways else there))
    if "pfl" in names and "pfl" not in there:
        raise ConfigError("ways: 'pfl' is not allowed: pfl-research is not installed here; --pfl-python names an environment that has it")
    for workload in chosen:
        if not any(way.can(workload) for way in chosen_ways(names).values()):
            raise ConfigError(
                f"ways: {', '.join(names)} is not allowed: not asked for {workload.name}, where it has nothing to do or no end"
            )
    for option, file in (("json", json_file), ("figure", figure)):
        if file:
            check_file(file, option)

    from experiments.benchmarks.comparison import Plan

    plan = Plan(workloads=chosen, ways=chosen_ways(names), rounds=rounds, repeats=repeats, pythons=pythons)
    settings = {"rounds": rounds, "repeats": repeats, "actors": actors, "seed": seed, "ways": names}
    _measure(plan, settings, growth, commands, json_file, figure)


def _measure(plan: Plan, settings: dict[str, Any], growth: bool, commands: bool, json_file: Path | None, figure: Path | None) -> None:
    from experiments.benchmarks import commands as own_commands
    from experiments.benchmarks import comparison_table as tables
    from experiments.benchmarks.comparison import compare, summaries
    from experiments.benchmarks.files import Files

    failures = list[str]()

    def failed(reason: str) -> None:
        failures.append(reason)
        print_error(reason)

    growing = GROWTH if growth else {}
    noops = {workload.name: workload for points in growing.values() for workload in points.values()}
    measured = plan.workloads if tables.REFERENCE in plan.ways else []
    rest = replace(plan, workloads=[one for one in noops.values() if one not in measured], ways=chosen_ways([tables.REFERENCE]))
    with tempfile.TemporaryDirectory(prefix="fedsam-bench-") as folder, graceful_shutdown("interrupted"), _progress() as progress:
        files = Files(Path(folder), settings["seed"], settings["actors"])
        runs = [run for part in (plan, rest) for run in compare(part, files, progress, failed)]
        try:
            seconds = dict(own_commands.measured(files.folder, plan.repeats)) if commands else {}
        except subprocess.CalledProcessError as error:
            seconds = {}
            failed(str(error))
    if not runs:
        raise typer.Exit(FAILED)
    found, console = summaries(runs), Console(width=tables.WIDTH)
    for workload in plan.workloads:
        console.print(tables.workload_table(plan, workload, runs, found))
    if growing:
        console.print(tables.growth_table(growing, found))
    if seconds:
        console.print(tables.commands_table(seconds))
    if json_file:
        json_file.write_text(json.dumps({**tables.as_json(plan, runs, found, seconds, settings), "failures": failures}, indent=1))
        print_line(f"json: {json_file}")
    if figure:
        from experiments.benchmarks import comparison_figure

        comparison_figure.write(comparison_figure.draw(plan, found, growing), figure)
        print_line(f"figure: {figure}")
    if failures:
        print_error(f"left out: {plural(len(failures), 'failed run')}")
        raise typer.Exit(FAILED)


@contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    """Shows what runs: one live line on a terminal, elsewhere a line for each run."""
    console = Console(stderr=True)
    if console.is_terminal:
        with console.status("") as status:
            yield status.update
    else:
        yield lambda text: None if ", round " in text else console.print(text, highlight=False)


def _known(given: Sequence[str], known: Collection[str], option: str) -> list[str]:
    """The names, each once. Raises `ConfigError` for one that is not known."""
    for name in given:
        if name not in known:
            raise ConfigError(f"{option}: {name!r} is not known{nearest(name, list(known))}; allowed: {', '.join(known)}")
    return list(dict.fromkeys(given))


def _python(file: Path) -> Path:
    """An interpreter, as a whole path: links are kept, because an environment is found by them."""
    path = Path(os.path.abspath(file.expanduser()))
    if not os.access(path, os.X_OK) or path.is_dir():
        raise ConfigError(f"pfl-python: '{file}' is not allowed: must be a Python interpreter")
    return path
