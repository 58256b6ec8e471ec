"""The tables of a report: leaderboard, generalization, flatness, equal cost, time to target, costs, runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from experiments.analysis.comparison import Comparison
from experiments.analysis.conditions import data_text, run_conditions
from experiments.analysis.cost import COSTS, TARGET_COSTS, run_cost
from experiments.analysis.curves import EqualCost
from experiments.analysis.format import measure, number, p_value, percent, points
from experiments.analysis.leaderboard import LeaderboardEntry
from experiments.analysis.statistics import Estimate
from experiments.reporting.table import Column, ResultTable, Value
from fedsam.formatting import count, duration, printable, size
from fedsam.results.final import diverged_round
from fedsam.results.rows import cumulative

METHOD, CLIENTS = Column("method", "method"), Column("clients", "clients")
DATA = Column("data", "data")
FLATNESS: Mapping[str, str] = {  # smaller is flatter
    "hessian_top_1": "top\neigenvalue",
    "hessian_trace": "Hessian\ntrace",
    "sharpness_worst": "worst-case\nsharpness",
    "sharpness_worst_adaptive": "worst-case,\nadaptive",
    "sharpness_average": "average\nsharpness",
    "sharpness_average_adaptive": "average,\nadaptive",
}
EIGENVALUE = "hessian_top_"
FLATNESS_COSTS: Mapping[str, tuple[str, Callable[[float], str]]] = {
    "flatness_gradient_evaluations": ("gradient\nevaluations", count),
    "flatness_forward_evaluations": ("forward\nevaluations", count),
    "flatness_seconds": ("time", duration),
}
GENERALIZATION: Mapping[str, tuple[str, Callable[[Estimate], str]]] = {
    "test_accuracy": ("final test\naccuracy", percent),
    "validation_accuracy": ("final validation\naccuracy", percent),
    "union_accuracy": ("training accuracy,\nlast round", percent),
    "last_test_accuracy": ("test accuracy,\nlast round", percent),
    "gap": ("gap\n(points)", points),
    "test_loss": ("final\ntest loss", number),
    "validation_loss": ("final\nvalidation loss", number),
    "union_loss": ("training loss,\nlast round", number),
    "last_test_loss": ("test loss,\nlast round", number),
    "loss_gap": ("gap in\nloss", number),
    "calibration_error": ("calibration\nerror", percent),
}
CLIENT_ACCURACY: Mapping[str, tuple[str, Callable[[Estimate], str]]] = {
    "client_accuracy_mean": ("mean over\nclients", percent),
    "client_accuracy_std": ("std. dev.\nover clients", percent),
    "client_accuracy_worst10": ("worst 10 %\nof clients", percent),
    "client_accuracy": ("on the cohort's\nown examples", percent),
    "client_loss": ("loss on the cohort's\nown examples", number),
}
CLASS_ACCURACY = "class_accuracy_"
LEADERBOARD_COSTS = ("gradient_evaluations", "client_seconds", "bytes")
RATES_AND_PEAKS: Mapping[str, tuple[str, Callable[[float], str]]] = {
    "startup": ("start-up", duration),
    "rounds_per_second": ("rounds\nper s", lambda value: f"{value:.3g}"),
    "examples_per_second": ("examples\nper s", count),
    "peak_rss": ("peak\nmemory", size),
    "peak_device_memory": ("peak device\nmemory", size),
}


def _title(name: str) -> str:
    return COSTS[name].title.replace(" ", "\n", 1)


def _mean(format: Callable[[float], str]) -> Callable[[Estimate], str]:
    return lambda estimate: format(estimate.mean)


def condition_table(
    name: str, columns: Sequence[Column], rows: Sequence[Sequence[Value]], *, best_rows: Sequence[int] = (), by: str = ""
) -> ResultTable:
    """A table, with a column of data settings behind that of client counts where runs differ in them."""
    keys = [column.key for column in columns]
    if "clients" not in keys:
        return ResultTable.of(name, columns, rows, best_rows=best_rows, by=by)
    place = keys.index("clients")
    wider = [[*row[:place], *_condition(row[place]), *row[place + 1 :]] for row in rows]
    return ResultTable.of(name, [*columns[: place + 1], DATA, *columns[place + 1 :]], wider, best_rows=best_rows, by=by)


def _condition(clients: Value) -> tuple[Value, Value]:
    """The number of clients, and the data settings in words; None where all runs have the same."""
    return clients, (data_text(clients) or None) if isinstance(clients, int) else None


def best_rows(entries: Sequence[LeaderboardEntry]) -> list[int]:
    """Indices of the best entry of each condition with more than one ranked entry."""
    firsts: dict[int, int] = {}
    for index, entry in enumerate(entries):
        if entry.is_ranked and sum(other.is_ranked and other.clients == entry.clients for other in entries) > 1:
            firsts.setdefault(entry.clients, index)
    return list(firsts.values())


def leaderboard(comparison: Comparison) -> ResultTable:
    """Accuracy, difference to the baseline, flatness, gap and cost of each entry, the best first within a condition."""
    shown_if_different = ("seeds", "evaluations_averaged", "rounds")
    differ = {name: len({getattr(entry, name) for entry in comparison.entries}) > 1 for name in shown_if_different}
    flat = ("sharpness_worst", "hessian_top_1", "hessian_trace")
    columns = [
        Column("rank", "rank"),
        METHOD,
        CLIENTS,
        Column("test_accuracy", "accuracy\n(%)", lambda value: percent(value).removesuffix(" %")),
        Column("difference", f"above {comparison.baseline}\n(points)", points),
        Column("simultaneous_half_width", "± for all\ntogether", lambda value: f"{100 * value:.2f}"),
        Column("p_holm", "p\n(Holm)", p_value),
        Column("interquartile_mean", "interquar-\ntile mean", lambda value: f"{100 * value:.2f}"),
        Column("seeds", "seeds"),
        Column("evaluations_averaged", "evaluations\naveraged"),
        Column("rounds", "rounds"),
        Column("gradient_evaluations_to_target", f"evaluations\nto {target_text(comparison)}", _mean(count)),
        *(Column(name, _title(name), COSTS[name].format) for name in LEADERBOARD_COSTS),
        Column("gap", "gap\n(points)", points),
        *(Column(name, FLATNESS[name], measure) for name in flat),
        Column("status", "status"),
    ]
    rows: list[list[Value]] = []
    for entry in comparison.entries:
        key = entry.key
        test, to_target = comparison.paired_tests.get(key), comparison.times_to_target.get(key)
        rows.append(
            [
                comparison.ranks.get(key),
                entry.label,
                entry.clients,
                entry.accuracy,
                test.difference if test else None,
                test.simultaneous.half_width if test and test.simultaneous != test.difference else None,
                test.adjusted_p_value if test else None,
                entry.interquartile_mean if entry.is_ranked else None,
                len(entry.seeds) if differ["seeds"] else None,
                entry.evaluations_averaged if differ["evaluations_averaged"] else None,
                entry.rounds if differ["rounds"] else None,
                to_target.costs.get("gradient_evaluations") if to_target and comparison.target_accuracy is not None else None,
                *(entry.costs.get(name) for name in LEADERBOARD_COSTS),
                *(entry.measures.get(name) for name in ("gap", *flat)),
                None if entry.shown_status == "finished" else entry.shown_status,
            ]
        )
    return condition_table("leaderboard", columns, rows, best_rows=best_rows(comparison.entries), by="clients")


def target_text(comparison: Comparison) -> str:
    """The target accuracy that was asked for, in percent; `target` where none was."""
    return "target" if comparison.target_accuracy is None else f"{100 * comparison.target_accuracy:g} %"


def _estimates(comparison: Comparison, name: str, columns: Mapping[str, tuple[str, Callable[[Any], str]]]) -> ResultTable:
    """A table with a row for each entry and a column for each measure, given with its title and format."""
    shown = [Column(key, title, format) for key, (title, format) in columns.items()]
    rows = [[entry.label, entry.clients, *(entry.measures.get(key) for key in columns)] for entry in comparison.entries]
    return condition_table(name, [METHOD, CLIENTS, *shown], rows, by="clients")


def generalization(comparison: Comparison) -> ResultTable:
    """Accuracy and loss on test and training examples, the gap between them, calibration."""
    return _estimates(comparison, "generalization", GENERALIZATION)


def class_accuracies(entry: LeaderboardEntry, classes: int) -> list[float]:
    """Test accuracy of the final model on each class, mean over seeds; NaN where it was not measured."""
    found = [entry.measures.get(f"{CLASS_ACCURACY}{kind}") for kind in range(classes)]
    return [one.mean if one else math.nan for one in found]


def class_accuracy(comparison: Comparison) -> ResultTable:
    """Test accuracy of the final model on each class, a row for each entry and class."""
    rows: list[list[Value]] = []
    for group in comparison.groups:
        entry, run = comparison.entry(group.key), group.counted_runs[0]
        names = comparison.results.class_names(run.id) or tuple(map(str, range(run.classes)))
        measured = [(name, entry.measures.get(f"{CLASS_ACCURACY}{kind}")) for kind, name in enumerate(names)]
        rows += [[entry.label, entry.clients, printable(name), value] for name, value in measured if value]
    return condition_table("class-accuracy", [METHOD, CLIENTS, Column("class", "class"), Column("accuracy", "accuracy", percent)], rows)


def client_accuracy(comparison: Comparison) -> ResultTable:
    """Accuracy over clients: mean, standard deviation, worst tenth."""
    return _estimates(comparison, "clients", CLIENT_ACCURACY)


def _flatness(comparison: Comparison) -> dict[str, str]:
    """Titles of the measures of flatness, with those of every eigenvalue that was measured."""
    numbers = {name.removeprefix(EIGENVALUE) for entry in comparison.entries for name in entry.measures if name.startswith(EIGENVALUE)}
    others = sorted(int(number) for number in numbers if number.isdecimal() and number != "1")
    lower = {f"{EIGENVALUE}{number}": f"eigen-\nvalue {number}" for number in others} | {"hessian_smallest": "smallest\neigenvalue"}
    return {f"{EIGENVALUE}1": FLATNESS[f"{EIGENVALUE}1"], **lower, **FLATNESS}


def flatness(comparison: Comparison) -> ResultTable:
    """Measures of flatness of the final model."""
    return _estimates(comparison, "flatness", {name: (title, measure) for name, title in _flatness(comparison).items()})


def flatness_errors(comparison: Comparison) -> ResultTable:
    """Errors of the estimators of flatness, and the cost of measuring."""
    errors = {f"{name}_error": (title, measure) for name, title in _flatness(comparison).items()}
    return _estimates(
        comparison, "flatness-errors", errors | {name: (title, _mean(format)) for name, (title, format) in FLATNESS_COSTS.items()}
    )


def correlations(comparison: Comparison) -> ResultTable:
    """Rank correlation of final accuracy with each measure of flatness, over the methods of a condition that learn."""
    rho = Column("spearman", "Spearman's ρ", lambda value: f"{value:+.2f}".replace("-", "−"))
    rows: list[list[Value]] = []
    for name, title in FLATNESS.items():
        for clients in comparison.conditions:
            found = comparison.correlation(name, clients)
            if found:
                rows.append([title.replace("\n", " "), clients, found.methods, found.rho, found.p_value])
    columns = [Column("measure", "measure"), CLIENTS, Column("methods", "methods"), rho, Column("p", "p", p_value)]
    return condition_table("flatness-correlations", columns, rows, by="measure")


def time_to_target(comparison: Comparison) -> ResultTable:
    """Costs at which the test accuracy of each method first reached the target."""
    columns = [METHOD, CLIENTS, Column("target", "target", lambda value: f"{100 * value:.2f} %"), Column("runs", "runs that\nreached it")]
    columns += [Column(name, _title(name), _mean(COSTS[name].format)) for name in TARGET_COSTS]
    found = [one for entry in comparison.entries if (one := comparison.times_to_target.get(entry.key))]
    rows = [[one.label, one.clients, one.target, f"{one.reached} of {one.seeds}", *map(one.costs.get, TARGET_COSTS)] for one in found]
    return condition_table("time-to-target", columns, rows, by="clients")


def equal_cost_title(equal: EqualCost) -> str:
    """The cost at which methods are compared, as a heading; without its value where that differs between conditions."""
    cost, values = COSTS[equal.cost], set(equal.values.values())
    value = cost.format(values.pop()) if len(values) == 1 else "equal"
    return f"at {value}\n{'exchanged' if cost.unit == 'B' and value != 'equal' else cost.title}"


def equal_cost(comparison: Comparison) -> ResultTable:
    """Test accuracy of the ranked entries where all of a condition have spent the same, and paired tests at equal gradient evaluations."""
    columns = [Column(f"at_equal_{equal.cost}", equal_cost_title(equal), percent) for equal in comparison.equal_costs]
    tested = [
        Column("spent", "gradient\nevaluations", count),
        Column("difference", f"there above {comparison.baseline}\n(points)", points),
        Column("p_holm", "p\n(Holm)", p_value),
    ]
    spent = next((equal.values for equal in comparison.equal_costs if equal.cost == "gradient_evaluations"), {})
    rows: list[list[Value]] = []
    for entry in comparison.ranked_entries:
        test = comparison.tests_at_equal_cost.get(entry.key)
        tests: list[Value] = [spent.get(entry.clients), *((test.difference, test.adjusted_p_value) if test else (None, None))]
        rows.append([entry.label, entry.clients, *(equal.accuracy[entry.key] for equal in comparison.equal_costs), *tests])
    return condition_table("equal-cost", [METHOD, CLIENTS, *columns, *tested], rows, by="clients")


def _cost_columns() -> list[Column]:
    totals = [Column(name, _title(name), cost.format) for name, cost in COSTS.items() if name != "bytes"]
    return totals + [Column(name, title, format) for name, (title, format) in RATES_AND_PEAKS.items()]


def costs(comparison: Comparison) -> ResultTable:
    """Costs of a run of each entry, mean over seeds."""
    columns = _cost_columns()
    rows = [[entry.label, entry.clients, *(entry.costs.get(column.key) for column in columns)] for entry in comparison.entries]
    return condition_table("costs", [METHOD, CLIENTS, *columns], rows, by="clients")


def runs(comparison: Comparison) -> ResultTable:
    """Progress and costs of each single run; none for a run without a round."""
    identity = [Column("run", "run"), METHOD, CLIENTS, Column("seed", "seed"), Column("status", "status")]
    work = [Column("cohorts", "clients\ntrained", count), Column("failures", "failures"), Column("steps", "local\nsteps", count)]
    names, where, rows = comparison.labels, run_conditions(comparison.runs), list[list[Value]]()
    for run in comparison.runs:
        own = comparison.results.rounds(run.id)
        total, since = cumulative(own)[-1:], diverged_round(own, run.status)
        status = f"diverged in round {since}" if run.status == "diverged" else run.status
        done = (total[0].cohort, total[0].failures, total[0].steps) if total else (None, None, None)
        cost = run_cost(run, total[0]) if total else {}
        values = [cost.get(column.key) for column in _cost_columns()]
        rows.append([run.id, names[run.id], where[run.id], run.seed, status, *done, *values])
    return condition_table("runs", [*identity, *work, *_cost_columns()], rows)


TABLES = (
    leaderboard,
    equal_cost,
    time_to_target,
    generalization,
    class_accuracy,
    client_accuracy,
    flatness,
    flatness_errors,
    correlations,
    costs,
    runs,
)
