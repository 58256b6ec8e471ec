"""`fedsam partition`: show the partition of a config."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from experiments.cli.options import ConfigFile, DataRoot, Overrides, read_experiments
from experiments.cli.output import FAILED, check_file, print_error, print_line, print_table
from fedsam.formatting import printable

if TYPE_CHECKING:
    from experiments.running.grids import DatasetCache
    from fedsam.config import Component, Experiment
    from fedsam.data.datasets import Dataset

EXAMPLES = (
    "fedsam partition quickstart",
    "fedsam partition quickstart -o data.partition.alpha=0.1 --plot partition.png",
)


def command(
    path: ConfigFile,
    overrides: Overrides = None,
    data_root: DataRoot = None,
    plot: Annotated[Path | None, typer.Option("--plot", metavar="FILE", help="Also draw it, client by class, as PNG.")] = None,
) -> None:
    """Deal the examples of CONFIG to its clients, without training, and show who holds what.

    CONFIG is a file as `fedsam run` takes it, and the partition the one that it uses. When the file sweeps, each different one is shown.
    """
    from experiments.cli import console_tables
    from experiments.reporting import figures
    from experiments.running.grids import DatasetCache
    from fedsam.data import federated
    from fedsam.data import partition as partitions

    experiments = read_experiments(path, overrides, {"data.root": data_root})
    different = list({(experiment.data.model_dump_json(), experiment.seed): experiment for experiment in experiments}.values())
    targets = _targets(plot, len(different)) if plot else []
    for target in targets:
        check_file(target, "plot")
    cache = DatasetCache()
    for number, experiment in enumerate(different):
        dataset = _dataset(experiment, cache)
        counts = partitions.class_counts(dataset.train.y.numpy(), federated.partition_examples(experiment, dataset), dataset.classes)
        print_line(
            f"{dataset.name}, {experiment.data.clients} clients, {_component_text(experiment.data.partition)}, seed {experiment.seed}"
        )
        print_table(console_tables.label_distribution(counts, dataset.class_names))
        for target in targets[number : number + 1]:
            figure = figures.label_distribution(counts, _warning(experiment, dataset), dataset.class_names)
            target.write_bytes(figures.encode(figure, "png"))
            print_line(f"plot: {target}")


def _targets(plot: Path, partitions: int) -> list[Path]:
    """The file of each partition."""
    return [plot] if partitions == 1 else [plot.with_stem(f"{plot.stem}-{number}") for number in range(1, partitions + 1)]


def _dataset(experiment: Experiment, cache: DatasetCache) -> Dataset:
    from fedsam.data.datasets import DataError

    try:
        return cache.get(experiment)
    except DataError as error:
        print_error(str(error))
        raise typer.Exit(FAILED) from None


def _warning(experiment: Experiment, dataset: Dataset) -> str:
    wanted = experiment.data.source.name
    return "" if dataset.name == wanted else printable(f"{dataset.name}, not {wanted}")


def _component_text(component: Component) -> str:
    return " ".join([component.name, *(f"{key}={value}" for key, value in component.settings.items())])
