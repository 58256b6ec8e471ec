"""`fedsam run-config`: print an experiment for `flwr run`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import typer

from experiments.cli.options import ConfigFile, DataRoot, NewRunsDir, Overrides, read_experiments
from fedsam.wording import ConfigError

if TYPE_CHECKING:
    from fedsam.config import Experiment

EXAMPLES = (
    "fedsam run-config quickstart -o client.optimizer.name=sam -o data.clients=10 > run.toml",
    "flwr run . --run-config run.toml --federation-config 'num-supernodes=10 client-resources-num-cpus=1'",
)


def command(path: ConfigFile, overrides: Overrides = None, data_root: DataRoot = None, runs_dir: NewRunsDir = None) -> None:
    """Print the experiment of CONFIG as the run config of the Flower app in this repository, for `flwr run . --run-config`.

    Its paths are absolute, because Flower's runtime runs apps in a folder of its own. The federation needs data.clients SuperNodes.
    """
    experiments = read_experiments(path, overrides, {"data.root": data_root, "runs_dir": runs_dir})
    if len(experiments) > 1:
        raise ConfigError(f"sweep: {len(experiments)} experiments are not allowed here: fix the swept settings with -o")
    typer.echo(run_config(experiments[0]))


def run_config(experiment: Experiment) -> str:
    """The experiment as one line of TOML, `experiment = '<JSON>'`, with absolute paths."""
    from fedsam.data import own_data

    data = experiment.data
    paths = {"root": data.root and data.root.expanduser().absolute(), "dataset": own_data.with_absolute_path(data.dataset)}
    whole = experiment.model_copy(update={"data": data.model_copy(update=paths), "runs_dir": experiment.runs_dir.expanduser().absolute()})
    return f"experiment = {json.dumps(whole.dumps(), ensure_ascii=False)}"
