"""Published results in a file: `[[published]]`, what papers print of the experiments that its `when` fits.

They are stored with each run, as its settings are: whoever reads the results needs no file, and no name of one, to put them beside the
measured.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from experiments.settings.selector import Selector, is_fixed
from fedsam.config import ConfigError, Experiment, Published, validated
from fedsam.wording import shown

# What the command line may change without making another run of it than the published one.
UNCHANGED = (
    "seed",
    "sweep.seeds",
    "sweep.max_runs",
    "name",
    "runs_dir",
    "data.root",
    "compute",
    "checkpoint",
    "callbacks",
    "measure.flatness",
)


@dataclass(frozen=True)
class PublishedResult:
    """What was published of the experiments that a selector fits."""

    selector: Selector
    published: Published


def split(settings: Mapping[str, Any], fixed: Collection[str]) -> tuple[dict[str, Any], list[PublishedResult]]:
    """Settings without their list `published`, and what it says. A table `published` without a `when` stays: it is of every run.

    Args:
        fixed: Dotted keys that the command line sets.

    Raises:
        ConfigError: The list or one of its tables is not valid.
    """
    given = settings.get("published")
    if not isinstance(given, list):
        return dict(settings), []
    rest = {key: value for key, value in settings.items() if key != "published"}
    return rest, [_result(f"published[{number}]", table, fixed) for number, table in enumerate(given, 1)]


def _result(where: str, table: Any, fixed: Collection[str]) -> PublishedResult:
    if not isinstance(table, dict) or not isinstance(table.get("when"), dict) or not table["when"]:
        needs = "must be a table with `when`, `accuracy` and `source`"
        raise ConfigError(f"{where}: {shown(table)} is not allowed: {needs}")
    values = {key: value for key, value in table.items() if key != "when"}
    return PublishedResult(Selector.of(where, table["when"], fixed), validated(Published, values, where))


def attached(experiments: Sequence[Experiment], results: Sequence[PublishedResult], fixed: Collection[str]) -> list[Experiment]:
    """The experiments with what was published of them.

    Raises:
        ConfigError: A result fits no experiment, or two fit the same.
    """
    fits = [[experiment for experiment in experiments if result.selector.fits(experiment)] for result in results]
    for result, fitting in zip(results, fits, strict=True):
        if not fitting and not result.selector.may_miss:
            raise result.selector.missed()
    return [_with_published(experiment, results, fixed) for experiment in experiments]


def _with_published(experiment: Experiment, results: Sequence[PublishedResult], fixed: Collection[str]) -> Experiment:
    fitting = [result for result in results if result.selector.fits(experiment)]
    if len(fitting) > 1:
        raise ConfigError(f"{fitting[1].selector.where}.when: fits what {fitting[0].selector.where} fits; one result is published of a run")
    published = fitting[0].published if fitting else experiment.published
    if published is None:
        return experiment
    chosen = fitting[0].selector.settings if fitting else {}
    changed = (*published.changed, *sorted(key for key in fixed if not _chosen(key, chosen)))
    return experiment.model_copy(update={"published": published.model_copy(update={"changed": changed})})


def _chosen(key: str, chosen: Mapping[str, Any]) -> bool:
    """Whether setting the key leaves the run the published one: it changes no number, or was compared with what the result is of."""
    plain, names = key.removeprefix("sweep."), (*UNCHANGED, *chosen, "published")
    return is_fixed(key, names) or is_fixed(plain, names) or f"{plain}.name" in chosen
