"""What runs say, in words: the question, the set-up, findings with their uncertainty, and how to read the numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from experiments.analysis.comparison import Comparison
from experiments.analysis.cost import COSTS
from experiments.analysis.format import chance, listed, percent, points
from experiments.analysis.labels import METHOD, Settings, flatten, part_text
from experiments.analysis.leaderboard import Key, LeaderboardEntry
from experiments.analysis.statistics import LEVEL, Estimate, paired, smallest_p
from fedsam.results.rows import Run

NAMED = 4  # methods at most that the title names


def plural(count: int, what: str) -> str:
    """A number of things.

    >>> plural(1, "seed"), plural(3, "seed")
    ('1 seed', '3 seeds')
    """
    return f"{count} {what}{'s' * (count != 1)}"


def alarm(runs: Sequence[Run]) -> str:
    """A warning when a dataset stood in for the one wanted; else empty."""
    swapped = sorted({(run.dataset_wanted, run.dataset) for run in runs if run.dataset != run.dataset_wanted})
    return "; ".join(f"NOT {wanted}: {used} was used instead" for wanted, used in swapped)


def question(study: Comparison) -> str:
    """What these runs can answer."""
    named = listed(study.methods) if len(study.methods) <= NAMED else f"{len(study.methods)} methods"
    asked = f"Which of {named} generalizes best" if len(study.methods) > 1 else f"How well does {study.methods[0]} generalize"
    where = f"when {listed(study.counts)} clients share {listed(sorted({run.dataset for run in study.runs}))}"
    return f"{asked} {where}, and what does it cost?"


def findings(study: Comparison) -> list[str]:
    """Who is first with each client count, and by how much; which differences are more than chance; what more clients change."""
    return [*(_finding(study, clients) for clients in study.counts), *_verdict(study), *_with_clients(study)]


def _finding(study: Comparison, clients: int) -> str:
    start = f"With {plural(clients, 'client')}"
    lines = [line for line in study.ranked if line.clients == clients]
    if not lines:
        return f"{start}, no run has finished with a finite accuracy."
    best, *others = lines
    name = f"{best.label}, the baseline," if others and best.label == study.baseline else best.label
    first = f"{start}, {name} {f'is first of {len(lines)} with' if others else 'reaches'} {percent(best.accuracy)} test accuracy"
    rivals = others[:1] + [line for line in others[1:] if line.label == study.baseline]
    return f"{first}{': ' * bool(rivals)}{'; '.join(_margin(study, best, other) for other in rivals)}."


def _margin(study: Comparison, best: LeaderboardEntry, other: LeaderboardEntry) -> str:
    """How far `best` is above `other`, compared seed by seed, and for what cost."""
    ratio = best.costs["gradient_evaluations"] / max(1.0, other.costs["gradient_evaluations"])
    cost = "as many" if abs(ratio - 1) < 0.005 else f"{ratio:.2f} times as many"
    differences = paired(best.finals, other.finals)
    if not differences:
        return f"no seed in common with {other.label}"
    gap = Estimate.of(differences)
    doubt = "" if gap.clear else " (one seed: may be chance)" if gap.half_width is None else " (the interval contains zero: may be chance)"
    name = f"{other.label}, the baseline" if other.label == study.baseline else other.label
    return f"{points(gap).removeprefix('+')} points above {name}{doubt}, with {cost} gradient evaluations"


def _verdict(study: Comparison) -> list[str]:
    """What the tests against the baseline allow to claim."""
    tested = {key: versus for key, versus in study.versus.items() if versus.adjusted is not None}
    if not tested:
        return []
    methods = {clients: sum(n == clients for _, n in tested) for _, clients in tested}
    least, seeds, many = min((methods[n] * smallest_p(versus.seeds), versus.seeds, methods[n]) for (_, n), versus in tested.items())
    if least > LEVEL:
        corrected = f", corrected for {many} methods," if many > 1 else ""
        able = f"No difference from {study.baseline} can be shown at the {100 * LEVEL:g} % level: "
        able += f"sign flips of {plural(seeds, 'seed')}{corrected} give p = {min(least, 1.0):.2g} at best."
        clear = {key: versus.difference.mean for key, versus in tested.items() if versus.difference.clear}
        return [f"{able} Intervals that exclude zero, not corrected for {plural(len(tested), 'comparison')}: {_sides(study, clear)}."]
    sure = {key: versus.difference.mean for key, versus in tested.items() if versus.adjusted is not None and versus.adjusted <= LEVEL}
    test = f"Different from {study.baseline} at the {100 * LEVEL:g} % level, by sign flips with Holm's correction over methods"
    return [f"{test}: {_sides(study, sure)}."]


def _sides(study: Comparison, differences: Mapping[Key, float]) -> str:
    """Methods above and below the baseline, by client count."""
    several = len(study.counts) > 1
    said = []
    for clients in study.counts:
        sides = {
            side: [label for (label, n), difference in differences.items() if n == clients and (difference > 0) == (side == "above")]
            for side in ("above", "below")
        }
        words = [f"{listed(labels)} {side} it" for side, labels in sides.items() if labels]
        said += [" and ".join(words) + f" with {plural(clients, 'client')}" * several] if words else []
    return "; ".join(said) or "none"


def _with_clients(study: Comparison) -> list[str]:
    """How accuracy changes from the fewest to the most clients, for the methods it changes least and most."""
    fewest, most = study.counts[0], study.counts[-1]
    few = {line.label: line for line in study.ranked if line.clients == fewest}
    pairs = {line.label: paired(line.finals, few[line.label].finals) for line in study.ranked if line.clients == most and line.label in few}
    changes = {label: Estimate.of(differences) for label, differences in pairs.items() if differences}
    if fewest == most or not changes:
        return []
    low, high = (pick(changes, key=lambda label: changes[label].mean) for pick in (min, max))
    parts = [f"{points(changes[label])} ({label})" for label in dict.fromkeys((low, high))]
    return [f"From {fewest} to {most} clients test accuracy changes by {' to '.join(parts)} points."]


def notes(study: Comparison) -> list[str]:
    """How to read the leaderboard: what accuracy and intervals mean here, and what was left out."""
    lines = study.lines
    lasts = sorted({line.last for line in lines if line.last})
    many = {len(line.seeds) > 1 for line in lines}
    seeds, rounds = sorted({len(line.seeds) for line in lines}), sorted({line.rounds for line in lines})
    words = [f"Number of seeds: {listed(seeds)}; of rounds: {listed(rounds)}."]
    words += [f"Accuracy and loss: mean of the last {listed(lasts)} evaluation{'s' * (lasts != [1])} on the test set."] if lasts else []
    if lasts and len(rounds) > 1:
        words.append("Numbers of rounds differ, so these are not the same rounds for all.")
    if many == {True}:
        words.append("± is the 95 % t-interval over seeds; costs are the mean of a run.")
    elif many == {False}:
        words.append("One seed: no interval, so small differences may be chance.")
    else:
        words.append("± is the 95 % t-interval over seeds, costs are the mean of a run; lines without ± have one seed, hence no interval.")
    left_out = sum(line.left_out for line in lines)
    if left_out:
        words.append(f"Not counted: {plural(left_out, 'run')}, unfinished or a repetition of a seed.")
    return words


def on_differences(study: Comparison) -> str:
    """How the methods were compared with the baseline; empty when they were not."""
    if not study.versus:
        return ""
    words = f"Differences to {study.baseline} are taken seed by seed"
    seeds = {versus.seeds for versus in study.versus.values()}
    if seeds == {1}:
        return f"{words}; with one seed in common there is no test."
    least = f"with {plural(max(seeds), 'seed')} p cannot be below {chance(smallest_p(max(seeds)))} before the correction"
    test = f"p is that of a two-sided sign-flip test, Holm-corrected over the methods of a client count; {least}"
    return f"{words}; {test}. Intervals are not corrected."


def on_target(study: Comparison) -> str:
    """Which target accuracy the tables mean."""
    if study.wanted is not None:
        chosen = f"Target: {100 * study.wanted:g} % test accuracy."
    else:
        chosen = "Target: for each client count the final accuracy of its weakest method, since none was set."
    return f"{chosen} What a run had spent at its first evaluation at or above it, mean over the runs that reached it; a dash: none did."


def on_prices(study: Comparison) -> str:
    """Which costs cannot tell the methods apart; empty when all can, or when there is one method."""
    alike = [COSTS[name].title for name, differ in study.prices.items() if not differ]
    return f"All methods of a client count spent the same {listed(alike)}: no front." if alike and len(study.methods) > 1 else ""


def setup(study: Comparison) -> list[tuple[str, list[str]]]:
    """(what, its values) of the settings, in words."""
    runs = study.runs
    flat = [flatten(run) for run in runs]
    own = {group.label: flatten(group.runs[0]) for group in study.held}
    rows: list[tuple[str, list[str]]] = [
        ("Methods", [f"{name}: {' × '.join(part_text(settings, part) for part in METHOD)}" for name, settings in own.items()]),
        ("Dataset", sorted({_dataset(run) for run in runs})),
        ("Clients", [listed(study.counts)]),
        ("Partition", [part_text(one, "data.partition") for one in flat]),
        ("Cohort", [_cohort(one["server.participation"]) for one in flat]),
        ("Length", [_length(one) for one in flat]),
        ("Local training", [_local(one) for one in flat]),
        ("Local learning rate", [part_text(one, "client.schedule") for one in flat]),
        ("Model", [part_text(one, "model") for one in flat]),
        ("Seeds", [", ".join(str(seed) for seed in sorted({run.seed for run in runs}))]),
        ("Flatness", [_flatness(one) for one in flat if one.get("measure.flatness.measures")]),
    ]
    return [(what, list(dict.fromkeys(values))) for what, values in rows if values]


def _dataset(run: Run) -> str:
    return run.dataset + (f", because {run.dataset_wanted} could not be had" if run.dataset != run.dataset_wanted else "")


def _cohort(participation: float) -> str:
    return f"{participation} clients per round" if isinstance(participation, int) else f"{100 * participation:g} % of the clients per round"


def _length(settings: Settings) -> str:
    if settings.get("budget"):
        return f"until {settings['budget']:,} gradient evaluations are reached, {settings['rounds']} rounds at most"
    return plural(settings["rounds"], "round")


def _local(settings: Settings) -> str:
    length = plural(settings["client.steps"], "step") if settings.get("client.steps") else plural(settings["client.epochs"], "epoch")
    return f"{length} in batches of {settings['client.batch_size']}"


def _flatness(settings: Settings) -> str:
    """All of the table `measure.flatness`, since every number depends on it."""
    start = "measure.flatness."
    given = {key.removeprefix(start): value for key, value in settings.items() if key.startswith(start) and not key.endswith(".measures")}
    return f"{', '.join(settings[f'{start}measures'])}: {', '.join(f'{key}={value}' for key, value in given.items())}"


def origin(runs: Sequence[Run]) -> list[tuple[str, list[str]]]:
    """(what, its values) of what made the runs: commands, commits, devices and versions, each once."""
    versions = [", ".join(f"{name} {version}" for name, version in run.versions.items()) for run in runs]
    rows = {
        "Command": [run.command for run in runs],
        "Commit": [run.git_commit for run in runs],
        "Device": [run.device for run in runs],
        "Versions": versions,
    }
    return [(what, list(dict.fromkeys(values))) for what, values in rows.items()]
