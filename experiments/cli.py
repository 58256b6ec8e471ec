"""The command `fedsam`: run experiments, list what can be chosen, look at runs and reports.

Nothing heavy is imported before a command needs it: help and completion answer at once.
Exit codes: 0 all went well; 1 a run failed; 2 wrong usage or configuration; 130 interrupted (Ctrl-C), 143 terminated.
"""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console

from experiments import progress
from fedsam import config

if TYPE_CHECKING:
    from rich.table import Table

    from fedsam.config import Experiment
    from fedsam.datasets import Dataset

FAILED, USAGE, INTERRUPTED, TERMINATED = 1, 2, 130, 143
RUNS_DIR = Path("runs")


class Kind(StrEnum):
    """What `fedsam list` lists."""

    OPTIMIZERS = "optimizers"
    CORRECTIONS = "corrections"
    STRATEGIES = "strategies"
    METHODS = "methods"
    PARTITIONS = "partitions"
    MODELS = "models"
    DATASETS = "datasets"
    SCHEDULES = "schedules"


app = typer.Typer(
    name="fedsam",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Simulate federated learning with sharpness-aware local optimizers; compare accuracy, flatness and cost.",
    epilog="Begin with:  [bold]fedsam run experiments/configs/quickstart.toml[/bold]",
)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line `arguments`, by default this process's own, and exit."""
    try:
        app(arguments, prog_name="fedsam")
    except config.ConfigError as error:
        _complain(str(error))
        sys.exit(USAGE)
    sys.exit(0)


def _examples(*lines: str) -> str:
    # typer joins the lines of a paragraph, so each example is one.
    return "\n\n".join(["[bold]Examples[/bold]", *(f"  {line}" for line in lines)])


def _complain(text: str) -> None:
    Console(stderr=True).print(f"fedsam: {text}", style="bold red", markup=False, highlight=False, soft_wrap=True)


def _complete_run(incomplete: str) -> list[str]:
    from fedsam.results import Results

    if not RUNS_DIR.is_dir():
        return []
    with Results.open(RUNS_DIR, create=False) as results:
        return [run.id for run in results.runs() if run.id.startswith(incomplete)]


# Arguments are explained in the text of their command: click 8.5 loses the help that typer gives them.
ConfigFile = Annotated[Path, typer.Argument(metavar="CONFIG", show_default=False)]
RunIds = Annotated[list[str] | None, typer.Argument(metavar="[RUN]...", autocompletion=_complete_run, show_default=False)]
Overrides = Annotated[list[str] | None, typer.Option("--override", "-o", metavar="KEY=VALUE", help="Change a setting; repeat for more.")]
DataRoot = Annotated[
    Path | None, typer.Option("--data-root", metavar="DIR", help="Folder of dataset files; default: $FEDSAM_DATA, else ~/.cache/fedsam.")
]
RunsDir = Annotated[Path, typer.Option("--runs-dir", metavar="DIR", help="Folder of the results database.")]


@app.command(
    epilog=_examples(
        "fedsam run experiments/configs/quickstart.toml",
        "fedsam run quickstart.toml -o client.optimizer.name=sam -o client.optimizer.rho=0.1 -o data.clients=50",
        "fedsam run quickstart.toml -o 'sweep.seeds=[0, 1, 2]'",
        "fedsam run quickstart.toml --print-config > resolved.toml",
        "fedsam run quickstart.toml --ray-address auto",
    )
)
def run(
    path: ConfigFile,
    overrides: Overrides = None,
    print_config: Annotated[bool, typer.Option("--print-config", help="Print the full settings, defaults included, and stop.")] = False,
    data_root: DataRoot = None,
    runs_dir: Annotated[Path | None, typer.Option("--runs-dir", metavar="DIR", help="Folder of the results; default: runs.")] = None,
    ray_address: Annotated[
        str | None, typer.Option("--ray-address", metavar="ADDR", help="Join a running Ray: auto or HOST:PORT; default: a private one.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress; only the final table and the report's path.")] = False,
) -> None:
    """Run the experiments of CONFIG, then print their table and write a report.

    CONFIG is a TOML file of settings; what it leaves out has a default, and its table `sweep` makes it several experiments.
    Every setting is checked before anything starts. Each finished round is kept at once: Ctrl-C loses only the current one.
    """
    experiments = _experiments(path, overrides, {"data.root": data_root, "runs_dir": runs_dir, "compute.ray_address": ray_address})
    if print_config:
        _print_settings(experiments)
        return
    from experiments.app import run_all

    folder = experiments[0].runs_dir
    with _watch(quiet) as watch, _kept(folder):
        outcomes = run_all(experiments, watch)
    failures = [outcome for outcome in outcomes if outcome.status != "finished"]
    _show([outcome.run_id for outcome in outcomes if outcome.run_id], folder, None)
    for outcome in failures:
        _complain(f"run {outcome.run_id or 'not started'} {outcome.status}: {outcome.error}")
    if failures:
        raise typer.Exit(FAILED)


def _experiments(path: Path, overrides: Sequence[str] | None, options: Mapping[str, object]) -> list[Experiment]:
    from experiments.sweep import expand

    given = {key: str(value) for key, value in options.items() if value is not None}
    settings = config.override(config.read(path, overrides or ()), given)
    fixed = {text.partition("=")[0].strip() for text in overrides or ()} | set(given)
    return expand(settings | {"sweep": _unfixed(settings.get("sweep", {}), fixed)})


def _unfixed(sweep: Mapping[str, Any], fixed: Collection[str], prefix: str = "") -> dict[str, Any]:
    """A copy of the table [sweep] without what the command line fixes: a swept key that is typed there is swept no more."""
    tables = {key: _unfixed(value, fixed, f"{prefix}{key}.") if isinstance(value, dict) else value for key, value in sweep.items()}
    return {key: value for key, value in tables.items() if not any(f"{prefix}{key}.".startswith(f"{name}.") for name in fixed)}


def _print_settings(experiments: Sequence[Experiment]) -> None:
    from experiments.catalogue import resolved

    texts = [toml(resolved(experiment)) for experiment in experiments]
    for number, text in enumerate(texts, 1):
        if len(texts) > 1:
            typer.echo(f"# run {number} of {len(texts)}")
        typer.echo(text)


@contextmanager
def _kept(folder: Path) -> Iterator[None]:
    """Turn Ctrl-C and SIGTERM into an orderly end: what runs is recorded as interrupted, Ray is stopped, then the process exits."""

    def stop(number: int, frame: object) -> NoReturn:
        raise KeyboardInterrupt(number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except KeyboardInterrupt as stopped:
        _complain(f"interrupted; the finished rounds are kept in {folder / 'fedsam.db'}: see `fedsam runs` and `fedsam report`")
        raise typer.Exit(TERMINATED if signal.SIGTERM in stopped.args else INTERRUPTED) from None
    finally:
        signal.signal(signal.SIGTERM, before)


def _watch(quiet: bool) -> AbstractContextManager[progress.Watch]:
    return nullcontext(progress.Quiet()) if quiet else progress.Console(Console(stderr=True))


def _show(ids: Sequence[str], folder: Path, target: Path | None, baseline: str | None = None, accuracy: float | None = None) -> None:
    """Print the leaderboard of runs and write their report, by default below `folder`."""
    from experiments.report import leaderboard, write_report
    from fedsam.results import Results

    if not ids:
        return
    with Results.open(folder, create=False) as results:
        runs = results.find(ids)
        _print_table(leaderboard(results, runs, baseline, accuracy))
        typer.echo(f"report: {write_report(results, runs, target or folder / 'reports' / ids[0], baseline, accuracy)}")


@app.command("list", epilog=_examples("fedsam list", "fedsam list optimizers", "fedsam list partitions | less"))
def list_(kind: Annotated[Kind | None, typer.Argument(metavar="[KIND]", show_default=False)] = None) -> None:
    """List what can be chosen by name, with hyperparameters, defaults, allowed values and sources.

    KIND is optimizers, corrections, strategies, methods, partitions, models, datasets or schedules; default: all of them.

    For optimizers, a second table has the passes of a step, as documented and as measured now; that takes a few seconds.
    """
    from experiments import catalogue, tables

    for name in [kind] if kind else list(Kind):
        for table in tables.shown(name, catalogue.TABLES[name]):
            _print_table(table)


@app.command(epilog=_examples("fedsam runs", "fedsam runs --runs-dir /scratch/runs"))
def runs(runs_dir: RunsDir = RUNS_DIR) -> None:
    """List the runs of a results database, oldest first."""
    from experiments import tables
    from fedsam.results import Results

    with Results.open(runs_dir, create=False) as results:
        _print_table(tables.runs([(run, len(results.rounds(run.id))) for run in results.runs()]))


@app.command(
    epilog=_examples(
        "fedsam report",
        "fedsam report 20260102-1530 20260103 --out compare",
        "fedsam report --runs-dir /scratch/runs --baseline sgd --target 0.6",
    )
)
def report(
    ids: RunIds = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Folder to write to; default: reports/<first run> in the runs folder.")
    ] = None,
    runs_dir: RunsDir = RUNS_DIR,
    baseline: Annotated[
        str | None,
        typer.Option("--baseline", metavar="LABEL", help="Compare all methods with this one; default: sgd, fedavg or the first."),
    ] = None,
    target: Annotated[
        float | None, typer.Option("--target", metavar="ACCURACY", help="Show what it took to reach this test accuracy, such as 0.6.")
    ] = None,
) -> None:
    """Print the table of runs and write report.html, one file that opens offline, with its figures (PNG, SVG) and tables (CSV, LaTeX).

    RUN is the id of a run, or how it begins; default: all runs.
    """
    from fedsam.results import Results

    with Results.open(runs_dir, create=False) as results:
        found = [run.id for run in (results.find(ids) if ids else results.runs())]
    if not found:
        raise config.ConfigError(f"runs_dir: '{runs_dir}' holds no run yet; `fedsam run` makes one")
    _show(found, runs_dir, out, baseline, target)


@app.command(
    epilog=_examples(
        "fedsam partition experiments/configs/quickstart.toml",
        "fedsam partition quickstart.toml -o data.partition.alpha=0.1 --plot partition.png",
    )
)
def partition(
    path: ConfigFile,
    overrides: Overrides = None,
    data_root: DataRoot = None,
    plot: Annotated[Path | None, typer.Option("--plot", metavar="FILE", help="Also draw it, client by class, as PNG.")] = None,
) -> None:
    """Deal the examples of CONFIG to its clients, without training, and show who holds what.

    CONFIG is a file as `fedsam run` takes it, and the partition the one that it uses. When the file sweeps, each different one is shown.
    """
    from experiments import figures, tables
    from fedsam import federation
    from fedsam import partition as partitions

    experiments = _experiments(path, overrides, {"data.root": data_root})
    different = list({(experiment.data.model_dump_json(), experiment.seed): experiment for experiment in experiments}.values())
    for number, experiment in enumerate(different, 1):
        dataset = _dataset(experiment)
        counts = partitions.class_counts(dataset.train.y.numpy(), federation.deal(experiment, dataset), dataset.classes)
        typer.echo(f"{dataset.name}, {experiment.data.clients} clients, {_part(experiment.data.partition)}, seed {experiment.seed}")
        _print_table(tables.holdings(counts))
        if plot:
            target = plot if len(different) == 1 else plot.with_stem(f"{plot.stem}-{number}")
            target.write_bytes(figures.encode(figures.holdings(counts, _warning(experiment, dataset)), "png"))
            typer.echo(f"plot: {target}")


def _dataset(experiment: Experiment) -> Dataset:
    from fedsam import datasets

    data = experiment.data
    try:
        return datasets.load(data.dataset, data.root, data.fallback)
    except datasets.DataError as error:
        _complain(str(error))
        raise typer.Exit(FAILED) from None


def _warning(experiment: Experiment, dataset: Dataset) -> str:
    wanted = experiment.data.dataset
    return "" if dataset.name == wanted else f"{dataset.name}, not {wanted}"


def _part(part: config.Part) -> str:
    return " ".join([part.name, *(f"{key}={value}" for key, value in part.settings.items())])


def _print_table(table: Table) -> None:
    console = Console()
    if not console.is_terminal:
        # In a pipe rich assumes 80 columns; a table there may be as wide as it needs.
        wide = console.options.update(max_width=1000)
        console = Console(width=console.measure(table, options=wide).maximum)
    console.print(table)


def toml(settings: Mapping[str, Any], prefix: str = "") -> str:
    """Plain values as TOML, ready to be run again.

    >>> print(toml({"rounds": 3, "model": {"name": "cnn"}}))
    rounds = 3
    <BLANKLINE>
    [model]
    name = "cnn"
    """
    lines = [f"{key} = {_toml_value(value)}" for key, value in settings.items() if value is not None and not isinstance(value, Mapping)]
    tables = [toml(value, f"{prefix}{key}.") for key, value in settings.items() if isinstance(value, Mapping)]
    head = [f"[{prefix[:-1]}]"] if prefix and lines else []
    return "\n\n".join(block for block in ["\n".join([*head, *lines]), *tables] if block)


def _toml_value(value: object) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(_toml_value(item) for item in value)}]"
    # JSON's strings, booleans and finite numbers are TOML's too.
    return json.dumps(value if isinstance(value, str | bool | int | float) else str(value), ensure_ascii=False)


if __name__ == "__main__":
    main()
