"""The tables of a report: who is first, how well it generalizes, how flat it ends, what it cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from experiments.analysis.comparison import Comparison
from experiments.analysis.cost import COSTS, TARGET, spent
from experiments.analysis.curves import EqualCost
from experiments.analysis.format import chance, count, duration, measured, number, percent, points, size
from experiments.analysis.labels import labels
from experiments.analysis.leaderboard import LeaderboardEntry
from experiments.analysis.statistics import Estimate
from experiments.reporting.table import Column, Sheet, Value
from fedsam.results.rows import cumulative

METHOD, CLIENTS = Column("method", "method"), Column("clients", "clients")
FLATNESS: Mapping[str, str] = {  # of these smaller is flatter
    "hessian_top_1": "top\neigenvalue",
    "hessian_trace": "Hessian\ntrace",
    "sharpness_worst": "worst-case\nsharpness",
    "sharpness_worst_adaptive": "worst-case,\nadaptive",
    "sharpness_average": "average\nsharpness",
    "sharpness_average_adaptive": "average,\nadaptive",
}
EIGENVALUE = "hessian_top_"
EFFORT: Mapping[str, tuple[str, Callable[[float], str]]] = {
    "flatness_gradient_evaluations": ("gradient\nevaluations", count),
    "flatness_forward_evaluations": ("forward\nevaluations", count),
    "flatness_seconds": ("time", duration),
}
GENERALIZATION: Mapping[str, tuple[str, Callable[[Estimate], str]]] = {
    "test_accuracy": ("test\naccuracy", percent),
    "union_accuracy": ("training\naccuracy", percent),
    "gap": ("gap\n(points)", points),
    "test_loss": ("test\nloss", number),
    "union_loss": ("training\nloss", number),
    "loss_gap": ("gap in\nloss", number),
    "calibration_error": ("calibration\nerror", percent),
}
SPREAD: Mapping[str, tuple[str, Callable[[Estimate], str]]] = {
    "client_accuracy_mean": ("mean over\nclients", percent),
    "client_accuracy_std": ("std. dev.\nover clients", percent),
    "client_accuracy_worst10": ("worst 10 %\nof clients", percent),
    "client_accuracy": ("on the cohort's\nown examples", percent),
    "client_loss": ("loss on the cohort's\nown examples", number),
}
LEADING = ("gradient_evaluations", "client_seconds", "bytes")  # costs in the leaderboard
WHOLE: Mapping[str, tuple[str, Callable[[float], str]]] = {
    "startup": ("start-up", duration),
    "rounds_per_second": ("rounds\nper s", lambda value: f"{value:.3g}"),
    "examples_per_second": ("examples\nper s", count),
    "peak_rss": ("peak\nmemory", size),
    "peak_device_memory": ("peak device\nmemory", size),
}


def _title(name: str) -> str:
    return COSTS[name].title.replace(" ", "\n", 1)


def _mean(show: Callable[[float], str]) -> Callable[[Estimate], str]:
    return lambda estimate: show(estimate.mean)


def best(lines: Sequence[LeaderboardEntry]) -> list[int]:
    """Indices of the best line of each client count that has more than one."""
    firsts: dict[int, int] = {}
    for place, line in enumerate(lines):
        if line.ranked and sum(other.ranked and other.clients == line.clients for other in lines) > 1:
            firsts.setdefault(line.clients, place)
    return list(firsts.values())


def leaderboard(study: Comparison) -> Sheet:
    """Who is first with each client count: accuracy, difference to the baseline, flatness, gap and cost."""
    differ = {name: len({getattr(line, name) for line in study.lines}) > 1 for name in ("seeds", "last", "rounds")}
    flat = ("sharpness_worst", "hessian_top_1", "hessian_trace")
    columns = [
        Column("rank", "rank"),
        METHOD,
        CLIENTS,
        Column("test_accuracy", "accuracy\n(%)", lambda value: percent(value).removesuffix(" %")),
        Column("difference", f"above {study.baseline}\n(points)", points),
        Column("p_holm", "p\n(Holm)", chance),
        Column("interquartile_mean", "interquar-\ntile mean", lambda value: f"{100 * value:.2f}"),
        Column("seeds", "seeds"),
        Column("evaluations_averaged", "evaluations\naveraged"),
        Column("rounds", "rounds"),
        Column("gradient_evaluations_to_target", f"evaluations\nto {target(study)}", _mean(count)),
        *(Column(name, _title(name), COSTS[name].show) for name in LEADING),
        Column("gap", "gap\n(points)", points),
        *(Column(name, FLATNESS[name], measured) for name in flat),
        Column("status", "status"),
    ]
    rows: list[list[Value]] = []
    for line in study.lines:
        key = line.key
        versus, reached = study.versus.get(key), study.reached.get(key)
        rows.append(
            [
                study.ranks.get(key),
                line.label,
                line.clients,
                line.accuracy,
                versus.difference if versus else None,
                versus.adjusted if versus else None,
                line.middle if line.ranked else None,
                len(line.seeds) if differ["seeds"] else None,
                line.last if differ["last"] else None,
                line.rounds if differ["rounds"] else None,
                reached.spent.get("gradient_evaluations") if reached and study.wanted is not None else None,
                *(line.costs.get(name) for name in LEADING),
                *(line.measures.get(name) for name in ("gap", *flat)),
                None if line.status == "finished" else line.status,
            ]
        )
    return Sheet.of("leaderboard", columns, rows, best=best(study.lines), by="clients")


def target(study: Comparison) -> str:
    """The target accuracy that was asked for."""
    return "target" if study.wanted is None else f"{100 * study.wanted:g} %"


def _estimates(study: Comparison, name: str, columns: Mapping[str, tuple[str, Callable[[Any], str]]]) -> Sheet:
    """Measures of each line."""
    shown = [Column(key, title, show) for key, (title, show) in columns.items()]
    rows = [[line.label, line.clients, *(line.measures.get(key) for key in columns)] for line in study.lines]
    return Sheet.of(name, [METHOD, CLIENTS, *shown], rows, by="clients")


def generalization(study: Comparison) -> Sheet:
    """Accuracy and loss on test and training examples, the gap between them, calibration."""
    return _estimates(study, "generalization", GENERALIZATION)


def spread(study: Comparison) -> Sheet:
    """How evenly the model serves clients."""
    return _estimates(study, "clients", SPREAD)


def _flatness(study: Comparison) -> dict[str, str]:
    """The measures of flatness with their titles, the eigenvalues after the first by number."""
    places = {name.removeprefix(EIGENVALUE) for line in study.lines for name in line.measures if name.startswith(EIGENVALUE)}
    others = sorted(int(place) for place in places if place.isdecimal() and place != "1")
    lower = {f"{EIGENVALUE}{place}": f"eigen-\nvalue {place}" for place in others} | {"hessian_smallest": "smallest\neigenvalue"}
    return {f"{EIGENVALUE}1": FLATNESS[f"{EIGENVALUE}1"], **lower, **FLATNESS}


def flatness(study: Comparison) -> Sheet:
    """How flat the loss is where each method ends."""
    return _estimates(study, "flatness", {name: (title, measured) for name, title in _flatness(study).items()})


def flatness_errors(study: Comparison) -> Sheet:
    """The estimators' own errors, and what measuring cost."""
    errors = {f"{name}_error": (title, measured) for name, title in _flatness(study).items()}
    return _estimates(study, "flatness-errors", errors | {name: (title, _mean(show)) for name, (title, show) in EFFORT.items()})


def correlations(study: Comparison) -> Sheet:
    """Rank correlation of final accuracy with each measure of flatness, over the methods of a client count."""
    rho = Column("spearman", "Spearman's ρ", lambda value: f"{value:+.2f}".replace("-", "−"))
    rows: list[list[Value]] = []
    for name, title in FLATNESS.items():
        for clients in study.counts:
            found = study.correlation(name, clients)
            if found:
                rows.append([title.replace("\n", " "), clients, found.methods, found.rho, found.p])
    columns = [Column("measure", "measure"), CLIENTS, Column("methods", "methods"), rho, Column("p", "p", chance)]
    return Sheet.of("flatness-correlations", columns, rows, by="measure")


def to_target(study: Comparison) -> Sheet:
    """What each method spent until its test accuracy first reached the target."""
    columns = [METHOD, CLIENTS, Column("target", "target", lambda value: f"{100 * value:.2f} %"), Column("runs", "runs that\nreached it")]
    columns += [Column(name, _title(name), _mean(COSTS[name].show)) for name in TARGET]
    found = [reached for line in study.lines if (reached := study.reached.get(line.key))]
    rows = [[one.label, one.clients, one.target, f"{one.runs} of {one.seeds}", *map(one.spent.get, TARGET)] for one in found]
    return Sheet.of("time-to-target", columns, rows, by="clients")


def at(one: EqualCost) -> str:
    """What all have spent where they are compared."""
    cost = COSTS[one.cost]
    return f"at {cost.show(one.value)}\n{'exchanged' if cost.unit == 'B' else cost.title}"


def equal(study: Comparison) -> Sheet:
    """Test accuracy where all methods and client counts have spent the same."""
    columns = [Column(f"at_equal_{one.cost}", at(one), percent) for one in study.equal]
    rows = [[line.label, line.clients, *(one.accuracy[line.key] for one in study.equal)] for line in study.ranked]
    return Sheet.of("equal-cost", [METHOD, CLIENTS, *columns], rows, by="clients")


def _spending() -> list[Column]:
    adding = [Column(name, _title(name), cost.show) for name, cost in COSTS.items() if name != "bytes"]
    return adding + [Column(name, title, show) for name, (title, show) in WHOLE.items()]


def costs(study: Comparison) -> Sheet:
    """What a run cost, mean over seeds."""
    columns = _spending()
    rows = [[line.label, line.clients, *(line.costs.get(column.key) for column in columns)] for line in study.lines]
    return Sheet.of("costs", [METHOD, CLIENTS, *columns], rows, by="clients")


def runs(study: Comparison) -> Sheet:
    """What each single run came to and cost; a run without a round has none of that."""
    who = [Column("run", "run"), METHOD, CLIENTS, Column("seed", "seed"), Column("status", "status")]
    did = [Column("cohorts", "clients\ntrained", count), Column("failures", "failures"), Column("steps", "local\nsteps", count)]
    names, rows = labels(study.runs), []
    for run in study.runs:
        held = cumulative(study.results.rounds(run.id))
        trained = (held[-1].cohort, held[-1].failures, held[-1].steps) if held else (None, None, None)
        spending = spent(run, held[-1]) if held else {}
        costs = [spending.get(column.key) for column in _spending()]
        rows.append([run.id, names[run.id], run.clients, run.seed, run.status, *trained, *costs])
    return Sheet.of("runs", [*who, *did, *_spending()], rows)
