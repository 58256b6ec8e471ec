"""The set-up and provenance of the runs of a report, as pairs of a heading and its values."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from experiments.analysis.comparison import Comparison
from experiments.analysis.conditions import condition_text
from experiments.analysis.labels import METHOD_COMPONENTS, Settings, component_text, flatten
from fedsam.formatting import listed, plural
from fedsam.results.rows import Run

# Training examples and augmentation of the datasets of `fedsam.data.datasets`, which takes seconds to import.
OFFICIAL: Mapping[str, tuple[int, tuple[str, ...]]] = {
    "cifar10": (50_000, ("crop", "flip")),
    "cifar100": (50_000, ("crop", "flip")),
    "fashion_mnist": (60_000, ("crop", "flip")),
    "digits": (1_442, ()),
}

RADIUS = "client.rho_schedule"
Facts = list[tuple[str, list[str]]]  # (heading, distinct values)


def setup(comparison: Comparison) -> Facts:
    """The settings of the runs."""
    runs = comparison.runs
    settings = [flatten(run) for run in runs]
    facts: Facts = [
        ("Methods", _methods(comparison)),
        ("Dataset", sorted({_dataset(run) for run in runs})),
        ("Training examples", [_examples(comparison, run) for run in runs]),
        ("Augmentation", [_augmentation(run) for run in runs]),
        ("Clients", [listed(comparison.client_counts)]),
        ("Partition", [component_text(one, "data.partition") for one in settings]),
        ("Cohort", [_cohort(one["server.participation"]) for one in settings]),
        ("Length", [_length(one) for one in settings]),
        ("Local training", [_local_training(one) for one in settings]),
        ("Local learning rate", [_local_rate(one) for one in settings]),
        ("Perturbation radius", [component_text(one, RADIUS) for one in settings if one.get(f"{RADIUS}.name", "constant") != "constant"]),
        ("Model", [component_text(one, "model") for one in settings]),
        ("Seeds", [", ".join(str(seed) for seed in sorted({run.seed for run in runs}))]),
        ("Flatness", [_flatness(one) for one in settings if one.get("measure.flatness.measures")]),
    ]
    return [(heading, list(dict.fromkeys(values))) for heading, values in facts if values]


def provenance(runs: Sequence[Run]) -> Facts:
    """Commands, commits, devices and versions of the runs."""
    facts = {
        "Command": [run.command for run in runs],
        "Commit": [run.git_commit for run in runs],
        "Device": [run.device for run in runs],
        "Versions": [", ".join(f"{name} {version}" for name, version in run.versions.items()) for run in runs],
    }
    return [(heading, list(dict.fromkeys(values))) for heading, values in facts.items()]


def _local_rate(settings: Settings) -> str:
    floor = float(settings.get("client.rate_floor", 1.0))
    falling = "" if floor == 1 else f", within a round falling towards {floor:g} of it"
    return f"{component_text(settings, 'client.schedule')}{falling}"


def _methods(comparison: Comparison) -> list[str]:
    """Each method with its settings, once for all conditions or for each group of conditions in which they are the same."""
    found: defaultdict[str, defaultdict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for group in comparison.groups:
        found[group.label][_components(flatten(group.runs[0]))].append(condition_text(group.clients))
    return [
        f"{label}: {components}" + (f" with {'; '.join(where)}" if len(settings) > 1 else "")
        for label, settings in found.items()
        for components, where in settings.items()
    ]


def _components(settings: Settings) -> str:
    return " × ".join(component_text(settings, component) for component in METHOD_COMPONENTS)


def _dataset(run: Run) -> str:
    return run.dataset if run.dataset == run.dataset_wanted else f"{run.dataset}, because {run.dataset_wanted} could not be had"


def _examples(comparison: Comparison, run: Run) -> str:
    """How many training examples the clients share, and of how many."""
    used = int(comparison.results.label_distribution(run.id).sum())
    asked, there = run.config["data"].get("examples"), OFFICIAL[run.dataset][0] if run.dataset in OFFICIAL else None
    if asked is None or used < asked or used == there:  # a fallback with fewer examples is used whole
        return f"all {used:,}"
    return f"{used:,} of {f'{there:,}' if there else 'those there are'}, drawn by seed"


def _augmentation(run: Run) -> str:
    asked = run.config["data"].get("augment")
    if asked is None and run.dataset not in OFFICIAL:
        return "as the dataset says, which is none unless a function of yours made it (data.augment is not set)"
    return listed(list(OFFICIAL[run.dataset][1] if asked is None else asked) or ["none"])


def _cohort(participation: float) -> str:
    return f"{participation} clients per round" if isinstance(participation, int) else f"{100 * participation:g} % of the clients per round"


def _length(settings: Settings) -> str:
    if settings.get("budget"):
        return f"until {settings['budget']:,} gradient evaluations are reached, {settings['rounds']} rounds at most"
    return plural(settings["rounds"], "round")


def _local_training(settings: Settings) -> str:
    length = plural(settings["client.steps"], "step") if settings.get("client.steps") else plural(settings["client.epochs"], "epoch")
    return f"{length} in batches of {settings['client.batch_size']}"


def _flatness(settings: Settings) -> str:
    """The measures with every other setting of the table `measure.flatness`: each number depends on them."""
    start = "measure.flatness."
    others = {key.removeprefix(start): value for key, value in settings.items() if key.startswith(start) and not key.endswith(".measures")}
    return f"{', '.join(settings[f'{start}measures'])}: {', '.join(f'{key}={value}' for key, value in others.items())}"
