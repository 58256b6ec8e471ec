"""The sentences of a report: question, set-up, findings with their uncertainty, and notes on how to read the numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from experiments.analysis.comparison import Comparison
from experiments.analysis.conditions import condition_text, data_text
from experiments.analysis.cost import COSTS
from experiments.analysis.format import p_value, percent, points
from experiments.analysis.leaderboard import EntryKey, LeaderboardEntry
from experiments.analysis.statistics import SIGNIFICANCE_LEVEL, Estimate, paired_differences, smallest_p
from experiments.reporting.inference import about_intervals, dead_methods, interaction_findings, unit
from fedsam.formatting import listed, plural, printable
from fedsam.results.rows import Run

MAX_METHODS_IN_TITLE = 4
MAX_SHARE_OF_OTHERS = 0.1  # of the CPU time of a machine, which other programs may take before times are doubted
LEVEL = f"{100 * SIGNIFICANCE_LEVEL:g} % level"


def fallback_warning(runs: Sequence[Run]) -> str:
    """A warning where another dataset was used than the one asked for; else empty."""
    swapped = sorted({(run.dataset_wanted, run.dataset) for run in runs if run.dataset != run.dataset_wanted})
    return printable("; ".join(f"NOT {wanted}: {used} was used instead" for wanted, used in swapped))


def question(comparison: Comparison) -> str:
    """The question that these runs answer."""
    methods, datasets = comparison.methods, sorted({run.dataset for run in comparison.runs})
    if len(methods) == 1:
        start = f"How well does {methods[0]} generalize"
    else:
        start = f"Which of {listed(methods) if len(methods) <= MAX_METHODS_IN_TITLE else f'{len(methods)} methods'} generalizes best"
    data = f" ({'; '.join(comparison.data_settings)})" if len(comparison.data_settings) > 1 else ""
    return f"{start} when {listed(comparison.client_counts)} clients share {listed(datasets)}{data}, and what does it cost?"


def findings(comparison: Comparison) -> list[str]:
    """Sentences on the best method of each client count, on the tests against the baseline, and on the effect of more clients."""
    best = [_best_method(comparison, clients) for clients in comparison.conditions]
    changes = [*_effect_of_clients(comparison), *interaction_findings(comparison)]
    return [*best, *_significance(comparison), *changes, *dead_methods(comparison)]


def _best_method(comparison: Comparison, clients: int) -> str:
    start = f"With {condition_text(clients)}"
    entries = [entry for entry in comparison.ranked_entries if entry.clients == clients]
    if not entries:
        return f"{start}, no run has finished with a finite accuracy."
    best, *others = entries
    if not others:
        return f"{start}, {best.label} reaches {percent(best.accuracy)} test accuracy."
    name = f"{best.label}, the baseline," if best.label == comparison.baseline else best.label
    rivals = [others[0], *(entry for entry in others[1:] if entry.label == comparison.baseline)]
    margins = "; ".join(_margin(comparison, best, rival) for rival in rivals)
    return f"{start}, {name} is first of {len(entries)} with {percent(best.accuracy)} test accuracy: {margins}."


def _margin(comparison: Comparison, best: LeaderboardEntry, other: LeaderboardEntry) -> str:
    """How far `best` is above `other`, paired by seed, and at what relative cost."""
    differences = paired_differences(best.final_accuracies, other.final_accuracies)
    if not differences:
        return f"no seed in common with {other.label}"
    gap = Estimate.of(differences)
    if gap.excludes_zero:
        doubt = ""
    elif gap.half_width is None:
        doubt = " (one seed: may be chance)"
    else:
        doubt = " (the interval contains zero: may be chance)"
    name = f"{other.label}, the baseline" if other.label == comparison.baseline else other.label
    ratio = best.costs["gradient_evaluations"] / max(1.0, other.costs["gradient_evaluations"])
    cost = "as many" if abs(ratio - 1) < 0.005 else f"{ratio:.2f} times as many"
    return f"{points(gap).removeprefix('+')} points above {name}{doubt}, with {cost} gradient evaluations"


def _significance(comparison: Comparison) -> list[str]:
    """What the tests against the baseline show; nothing where there was no test."""
    tests = {key: test for key, test in comparison.paired_tests.items() if test.adjusted_p_value is not None}
    if not tests:
        return []
    methods = {clients: sum(n == clients for _, n in tests) for _, clients in tests}
    least, seeds, corrections = min((methods[n] * smallest_p(test.seeds), test.seeds, methods[n]) for (_, n), test in tests.items())
    if least > SIGNIFICANCE_LEVEL:
        corrected = f", corrected for {corrections} methods," if corrections > 1 else ""
        best = f"sign flips of {plural(seeds, 'seed')}{corrected} give p = {min(least, 1.0):.2g} at best."
        clear = {key: test.difference.mean for key, test in tests.items() if test.difference.excludes_zero}
        intervals = f"Intervals that exclude zero, not corrected for {plural(len(tests), 'comparison')}: {_by_sign(comparison, clear)}."
        return [f"No difference from {comparison.baseline} can be shown at the {LEVEL}: {best} {intervals}"]
    significant = {key: test.difference.mean for key, test in tests.items() if (test.adjusted_p_value or 0.0) <= SIGNIFICANCE_LEVEL}
    how = "by sign flips with Holm's correction over methods"
    return [f"Different from {comparison.baseline} at the {LEVEL}, {how}: {_by_sign(comparison, significant)}."]


def _by_sign(comparison: Comparison, differences: Mapping[EntryKey, float]) -> str:
    """The methods above and below the baseline, by condition."""
    parts = []
    for clients in comparison.conditions:
        above = [label for (label, n), difference in differences.items() if n == clients and difference > 0]
        below = [label for (label, n), difference in differences.items() if n == clients and not difference > 0]
        sides = [f"{listed(labels)} {side} it" for side, labels in (("above", above), ("below", below)) if labels]
        if sides:
            where = f" with {condition_text(clients)}" if len(comparison.conditions) > 1 else ""
            parts.append(" and ".join(sides) + where)
    return "; ".join(parts) or "none"


def _effect_of_clients(comparison: Comparison) -> list[str]:
    """The change of accuracy from the fewest to the most clients, of the methods that change least and most."""
    return [sentence for data in comparison.data_settings for sentence in _effect_of_clients_on(comparison, data)]


def _effect_of_clients_on(comparison: Comparison, data: str) -> list[str]:
    conditions = [clients for clients in comparison.conditions if data_text(clients) == data]
    fewest, most = conditions[0], conditions[-1]
    before, after = ({e.label: e.final_accuracies for e in comparison.ranked_entries if e.clients == n} for n in (fewest, most))
    pairs = {label: paired_differences(after[label], before[label]) for label in after if label in before}
    changes = {label: Estimate.of(differences) for label, differences in pairs.items() if differences}
    if fewest == most or not changes:
        return []
    extremes = dict.fromkeys(pick(changes, key=lambda label: changes[label].mean) for pick in (min, max))
    parts = [f"{points(changes[label])} ({label})" for label in extremes]
    where = f", {data}," if data else ""
    return [f"From {int(fewest)} to {int(most)} clients{where} test accuracy changes by {' to '.join(parts)} points."]


def notes(comparison: Comparison) -> list[str]:
    """Sentences on what accuracies and intervals mean in the leaderboard, and on runs that do not count."""
    entries = comparison.entries
    seeds, rounds = sorted({len(entry.seeds) for entry in entries}), sorted({entry.rounds for entry in entries})
    averaged = sorted({entry.evaluations_averaged for entry in entries if entry.evaluations_averaged})
    sentences = [f"Number of seeds: {listed(seeds)}; of rounds: {listed(rounds)}."]
    if averaged:
        evaluations = "evaluation" if averaged == [1] else "evaluations"
        sentences.append(f"Final accuracy and loss: mean of the last {listed(averaged)} {evaluations} on the test set.")
    if averaged and len(rounds) > 1:
        sentences.append("Numbers of rounds differ, so these are not the same rounds for all.")
    if min(seeds) > 1:
        sentences.append("± is the 95 % t-interval over seeds; costs are the mean of a run.")
    elif max(seeds) <= 1:
        sentences.append("One seed: no interval, so small differences may be chance.")
    else:
        sentences.append(
            "± is the 95 % t-interval over seeds, costs are the mean of a run; lines without ± have one seed, hence no interval."
        )
    excluded = sum(entry.excluded_runs for entry in entries)
    if excluded:
        sentences.append(f"Not counted: {plural(excluded, 'run')}, unfinished or a repetition of a seed.")
    return [*sentences, *_shared_machine(comparison)]


def _shared_machine(comparison: Comparison) -> list[str]:
    """A warning about times where the machine was shared; nothing where it was not, or that was not measured."""
    runs, every = comparison.counted_runs, comparison.results.runs()
    at_once = [run for run in runs if any(run.overlaps(other) for other in every)]
    share = max((run.other_cpu or 0.0 for run in runs), default=0.0)
    causes = [f"{plural(len(at_once), 'run')} of {len(runs)} went on beside another run"] if at_once else []
    causes += [f"other programs took up to {100 * share:.0f} % of its CPU time"] if share > MAX_SHARE_OF_OTHERS else []
    warning = f"The machine was shared ({', '.join(causes)}): differences in time may come from that, not from the methods."
    return [warning] if causes else []


def significance_note(comparison: Comparison) -> str:
    """How methods were compared with the baseline; empty where they were not."""
    if not comparison.paired_tests:
        return ""
    start = f"Differences to {comparison.baseline} are taken seed by seed"
    seeds = {test.seeds for test in comparison.paired_tests.values()}
    if seeds == {1}:
        return f"{start}; with one seed in common there is no test."
    least = f"with {plural(max(seeds), 'seed')} p cannot be below {p_value(smallest_p(max(seeds)))} before the correction"
    test = f"p is that of a two-sided sign-flip test, Holm-corrected over the methods of a {unit(comparison)}; {least}"
    return f"{start}; {test}. {about_intervals(comparison)}"


def target_note(comparison: Comparison) -> str:
    """Which target accuracy the tables use."""
    if comparison.target_accuracy is not None:
        target = f"Target: {100 * comparison.target_accuracy:g} % test accuracy."
    else:
        target = f"Target: for each {unit(comparison)} the final accuracy of its weakest method, since none was set."
    return f"{target} What a run had spent at its first evaluation at or above it, mean over the runs that reached it; a dash: none did."


def equal_cost_note(comparison: Comparison) -> str:
    """Which costs are the same for all methods, so that no front is drawn; empty where there is none, or one method."""
    same = [COSTS[name].title for name, differ in comparison.costs_differ.items() if not differ]
    return f"All methods of a {unit(comparison)} spent the same {listed(same)}: no front." if same and len(comparison.methods) > 1 else ""
