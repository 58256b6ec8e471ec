"""Arguments and options that several commands share, and the experiments that they define."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from experiments.cli.output import print_warning
from experiments.settings import shipped
from fedsam import overrides as overriding

if TYPE_CHECKING:
    from experiments.tuning.settings import StudyPlan
    from fedsam.config import Experiment

RUNS_DIR = Path("runs")


def _complete_run(incomplete: str) -> list[str]:
    from fedsam.results.store import Results

    if not RUNS_DIR.is_dir():
        return []
    with Results.open(RUNS_DIR, create=False) as results:
        return [run.id for run in results.runs() if run.id.startswith(incomplete)]


def _complete_config(incomplete: str) -> list[str]:
    return [name for name in (*shipped.configs(), *map(str, Path().glob("*.toml"))) if name.startswith(incomplete)]


# Arguments are explained in the help of their command, because click 8.5 drops the help that typer gives them.
ConfigFile = Annotated[Path, typer.Argument(metavar="CONFIG", autocompletion=_complete_config, show_default=False)]
RunIds = Annotated[list[str] | None, typer.Argument(metavar="[RUN]...", autocompletion=_complete_run, show_default=False)]
RunId = Annotated[str, typer.Argument(metavar="RUN", autocompletion=_complete_run, show_default=False)]
Overrides = Annotated[list[str] | None, typer.Option("--override", "-o", metavar="KEY=VALUE", help="Change a setting; repeat for more.")]
DataRoot = Annotated[
    Path | None, typer.Option("--data-root", metavar="DIR", help="Folder of dataset files; default: $FEDSAM_DATA, else ~/.cache/fedsam.")
]
RunsDir = Annotated[Path, typer.Option("--runs-dir", metavar="DIR", help="Folder of the results database.")]
NewRunsDir = Annotated[Path | None, typer.Option("--runs-dir", metavar="DIR", help="Folder of the results; default: runs.")]
RayAddress = Annotated[
    str | None, typer.Option("--ray-address", metavar="ADDR", help="Join a running Ray: auto or HOST:PORT; default: a private one.")
]
AllowOpen = Annotated[
    bool, typer.Option("--allow-unauthenticated-cluster", help="Join the Ray at --ray-address even if it asks for no token.")
]
TensorBoard = Annotated[bool, typer.Option("--tensorboard", help="Also write TensorBoard events, to RUN/tensorboard in the runs folder.")]
Baseline = Annotated[
    str | None, typer.Option("--baseline", metavar="LABEL", help="Compare all methods with this one; default: sgd, fedavg or the first.")
]
Target = Annotated[
    float | None,
    typer.Option("--target", metavar="ACCURACY", min=0, max=1, help="Show what it took to reach this test accuracy, such as 0.6."),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress; only the final table and the report's path.")]


def location_settings(data_root: Path | None, runs_dir: Path | None, ray_address: str | None, allow_open: bool) -> dict[str, object]:
    """The settings of these options by dotted key; None where an option is not given."""
    return {
        "data.root": data_root,
        "runs_dir": runs_dir,
        "compute.ray_address": ray_address,
        "compute.allow_unauthenticated_cluster": allow_open or None,
    }


def read_experiments(path: Path, overrides: Sequence[str] | None, options: Mapping[str, object]) -> list[Experiment]:
    """The experiments of a config with overrides and options applied.

    Args:
        path: A file, or the name of a config that comes with fedsam.
        overrides: Texts `KEY=VALUE`.
        options: Values by dotted key; None: the option is not given.

    Raises:
        ConfigError: The file, an override or an experiment is not valid, or the file has a table `tune`.
    """
    from experiments.settings.sweep import expand

    return expand(*read_settings(path, overrides, options), print_warning)


def read_comparison(path: Path, overrides: Sequence[str] | None, options: Mapping[str, object]) -> tuple[list[Experiment], list[StudyPlan]]:
    """The experiments of a config, and the studies of its table `tune`; arguments as of `read_experiments`.

    Raises:
        ConfigError: As `experiments.tuning.settings.expand_tuned`.
    """
    from experiments.tuning.settings import expand_tuned

    return expand_tuned(*read_settings(path, overrides, options), print_warning)


def read_settings(path: Path, overrides: Sequence[str] | None, options: Mapping[str, object]) -> tuple[dict[str, Any], set[str]]:
    """The settings of a config as plain values, not yet validated, and the dotted keys that the command line sets.

    Arguments are those of `read_experiments`. Raises `ConfigError` where the file or an override cannot be read.
    """
    from fedsam import plugins

    plugins.search(path.expanduser().absolute().parent)
    given = {key: str(value) for key, value in options.items() if value is not None}
    settings = overriding.override(overriding.read(shipped.find(path), overrides or ()), given)
    return settings, {text.partition("=")[0].strip() for text in overrides or ()} | set(given)
