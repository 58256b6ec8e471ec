"""What runs show, from their rows alone: the leaderboard in the terminal, and one HTML page with figures that opens offline.

Runs that differ only in their seed are one line. Its accuracy is the mean over seeds of the mean of each run's last evaluations, with
the 95 % interval of Student's t; one seed gives no interval. A line counts finished runs if it has any, and each seed once.
"""

from __future__ import annotations

import base64
import importlib.resources
import json
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from matplotlib.figure import Figure
from rich import box
from rich.markup import escape
from rich.table import Table
from scipy.special import stdtrit

from experiments import figures
from experiments.figures import Series
from fedsam.results import Results, Row, Run, cumulative

LAST = 5  # evaluations that the final accuracy averages
NAMED = 4  # methods at most that the title names
COMPARED = 3  # methods that the best one is compared with in words
COSTS = ("gradient_evaluations", "forward_evaluations", "bytes_down", "bytes_up", "client_seconds", "wall_seconds")
METHOD = ("client.optimizer", "client.correction", "server.strategy")
PARTS = (*METHOD, "client.schedule", "data.partition", "model")
# They change no method, or have a column of their own.
UNLABELLED = {"name", "method", "seed", "runs_dir", "data.root", "data.fallback", "data.clients"}

Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds and the half-width of its 95 % interval, which is None for one seed; NaN when a run diverged."""

    mean: float
    half_width: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> Estimate:
        """The estimate from one value per seed.

        >>> Estimate.of([1.0, 2.0, 3.0]).half_width.__format__(".4f")  # 4.3027 standard errors
        '2.4841'
        """
        if len(values) == 1:
            return cls(float(values[0]), None)
        return cls(float(np.mean(values)), float(stdtrit(len(values) - 1, 0.975) * np.std(values, ddof=1) / math.sqrt(len(values))))


@dataclass(frozen=True)
class Line:
    """One line of the leaderboard: a method with a client count, over its seeds.

    Attributes:
        status: `finished`, or how far the best of its runs came.
        last: How many evaluations the final figures average; 0 when there was none.
        accuracy: Final test accuracy, a fraction.
        finals: Final test accuracy of each seed.
        rounds: The fewest of its runs.
        costs: Totals of a run, mean over seeds, by the names in `COSTS`.
        left_out: Runs not counted: unfinished, or a seed again.
    """

    label: str
    clients: int
    seeds: tuple[int, ...]
    status: str
    last: int
    accuracy: Estimate | None
    loss: Estimate | None
    finals: Mapping[int, float]
    rounds: int
    costs: Mapping[str, float]
    left_out: int

    @property
    def ranked(self) -> bool:
        """Whether its accuracy may be compared with that of others."""
        return self.status == "finished" and self.accuracy is not None and math.isfinite(self.accuracy.mean)


@dataclass(frozen=True)
class Group:
    """Runs that differ only in their seed; `rows` has the rows of the ones that count, with cumulative costs."""

    label: str
    clients: int
    runs: tuple[Run, ...]
    rows: Mapping[str, Sequence[Row]]

    @property
    def counted(self) -> list[Run]:
        """The runs that its figures are made of, by seed."""
        return sorted((run for run in self.runs if run.id in self.rows), key=lambda run: run.seed)

    def evaluated(self) -> list[list[Row]]:
        """For each counted run the rows that have a test accuracy."""
        return [[row for row in self.rows[run.id] if "test_accuracy" in row.measures] for run in self.counted]


def groups(results: Results, runs: Sequence[Run]) -> list[Group]:
    """Runs by method and client count, fewer clients first, methods in the order of their first run."""
    names, members = labels(runs), defaultdict(list)
    for run in runs:
        members[run.clients, names[run.id]].append(run)
    order = list(dict.fromkeys(names[run.id] for run in runs))
    return [
        Group(label, clients, tuple(held), {run.id: cumulative(results.rounds(run.id)) for run in _counted(held)})
        for (clients, label), held in sorted(members.items(), key=lambda item: (item[0][0], order.index(item[0][1])))
    ]


def _counted(runs: Sequence[Run]) -> list[Run]:
    """Each seed once, its newest run; unfinished runs only where no run has finished."""
    finished = [run for run in runs if run.status == "finished"]
    return list({run.seed: run for run in sorted(finished or runs, key=lambda run: run.started)}.values())


def summarize(held: Sequence[Group]) -> list[Line]:
    """The leaderboard: fewer clients first, then the better accuracy first; lines that cannot be ranked come last."""
    lines = [_line(group) for group in held]
    return sorted(lines, key=lambda line: (line.clients, not line.ranked, -line.accuracy.mean if line.ranked and line.accuracy else 0.0))


def _line(group: Group) -> Line:
    counted, evaluated = group.counted, group.evaluated()
    last = min(LAST, *(len(rows) for rows in evaluated))
    done = [len(group.rows[run.id]) for run in counted]
    furthest = max(zip(done, counted, strict=True), key=lambda item: item[0])
    statuses = " or ".join(dict.fromkeys(run.status for run in counted))
    status = "finished" if statuses == "finished" else f"{statuses} after round {furthest[0]} of {furthest[1].config['rounds']}"
    finals = [_final(rows, "test_accuracy", last) for rows in evaluated] if last else []
    losses = [_final(rows, "test_loss", last) for rows in evaluated] if last else []
    ends = [rows[-1] for rows in group.rows.values() if rows]
    return Line(
        label=group.label,
        clients=group.clients,
        seeds=tuple(run.seed for run in counted),
        status=status,
        last=last,
        accuracy=Estimate.of(finals) if finals else None,
        loss=Estimate.of(losses) if losses else None,
        finals=dict(zip((run.seed for run in counted), finals, strict=False)),
        rounds=min(done),
        costs={name: float(np.mean([getattr(row, name) for row in ends])) if ends else 0.0 for name in COSTS},
        left_out=len(group.runs) - len(counted),
    )


def _final(rows: Sequence[Row], measure: str, last: int) -> float:
    return float(np.mean([row.measures.get(measure, math.nan) for row in rows[-last:]]))


def series(held: Sequence[Group], lines: Sequence[Line]) -> list[Series]:
    """What the figures draw, in the order of the groups; groups without an evaluation are left out."""
    finals = {(line.label, line.clients): line.accuracy if line.ranked else None for line in lines}
    return [one for group in held if (one := _series(group, finals[group.label, group.clients])) is not None]


def _series(group: Group, final: Estimate | None) -> Series | None:
    runs = [{row.round: row for row in rows} for rows in group.evaluated()]
    rounds = sorted(set.intersection(*(set(rows) for rows in runs)))
    if not rounds:
        return None
    points = [Estimate.of([rows[round].measures["test_accuracy"] for rows in runs]) for round in rounds]
    return Series(
        label=group.label,
        clients=group.clients,
        rounds=np.array(rounds, dtype=float),
        gradient_evaluations=np.array([np.mean([rows[round].gradient_evaluations for rows in runs]) for round in rounds], dtype=float),
        accuracy=np.array([point.mean for point in points]),
        half_width=np.array([_half_width(point) for point in points]),
        final=(final.mean, _half_width(final)) if final else None,
    )


def _half_width(estimate: Estimate) -> float:
    return math.nan if estimate.half_width is None else estimate.half_width


def findings(lines: Sequence[Line]) -> list[str]:
    """What the leaderboard says, a sentence for each client count: how far the best method is above the next ones, and at what cost."""
    counts = dict.fromkeys(line.clients for line in lines)
    return [_finding(clients, [line for line in lines if line.clients == clients and line.ranked]) for clients in counts]


def _finding(clients: int, lines: Sequence[Line]) -> str:
    start = f"With {clients} client{'s' * (clients != 1)}"
    if not lines:
        return f"{start}, no run has finished with a finite accuracy."
    best, *others = lines
    reached = f"{start}, {best.label} reaches {percent(best.accuracy)} test accuracy"
    return f"{reached}{': ' * bool(others)}{'; '.join(_margin(best, other) for other in others[:COMPARED])}."


def _margin(best: Line, other: Line) -> str:
    """How far `best` is above `other`, compared seed by seed, since a seed fixes the partition and the initial weights of both."""
    ratio = best.costs["gradient_evaluations"] / max(1.0, other.costs["gradient_evaluations"])
    cost = "as many" if abs(ratio - 1) < 0.005 else f"{ratio:.2f} times as many"
    differences = [best.finals[seed] - other.finals[seed] for seed in best.finals if seed in other.finals]
    if not differences:
        return f"no seed in common with {other.label}"
    gap = Estimate.of(differences)
    if gap.half_width is None:
        points, doubt = f"{100 * gap.mean:.2f}", " (one seed: may be chance)"
    else:
        points = f"{100 * gap.mean:.2f} ± {100 * gap.half_width:.2f}"
        doubt = "" if gap.mean > gap.half_width else " (the interval contains zero: may be chance)"
    return f"{points} points above {other.label}{doubt}, with {cost} gradient evaluations"


def leaderboard(results: Results, runs: Sequence[Run]) -> Table:
    """The leaderboard for a terminal of 80 columns; rounds and what is unfinished stand below it."""
    lines = summarize(groups(results, runs))
    cells = [_cells(line) for line in lines]
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 0), header_style="bold", title=_alarm(runs) or None, title_style="bold red")
    columns = [column for column in cells[0] if column != "forward\nevals" or any(row[column] != "0" for row in cells)]
    for column in columns:
        text = column == "method"
        table.add_column(column, justify="left" if text else "right", overflow="fold", no_wrap=not text, min_width=8 if text else None)
    for row, style in zip(cells, _best(lines, "bold", ""), strict=True):
        table.add_row(*(escape(row[column]) for column in columns), style=style)
    unfinished = [f"{line.label}, {line.clients} clients: {line.status}." for line in lines if line.status != "finished"]
    table.caption = escape("\n".join([f"Rounds: {_either(sorted({line.rounds for line in lines}))}.", *notes(lines), *unfinished]))
    table.caption_justify = "left"
    return table


def _cells(line: Line) -> dict[str, str]:
    """A line as a terminal shows it, by column."""
    return {
        "method": line.label,
        "clients": str(line.clients),
        "accuracy\n(%)": percent(line.accuracy).removesuffix(" %"),
        "loss": number(Estimate(line.loss.mean, None) if line.loss else None),
        "gradient\nevals": count(line.costs["gradient_evaluations"]).replace(" ", ""),
        "forward\nevals": count(line.costs["forward_evaluations"]).replace(" ", ""),
        "bytes\ndown": size(line.costs["bytes_down"]).replace(" ", ""),
        "bytes\nup": size(line.costs["bytes_up"]).replace(" ", ""),
        "client\ntime": duration(line.costs["client_seconds"]).replace(" ", ""),
        "wall\ntime": duration(line.costs["wall_seconds"]).replace(" ", ""),
    }


def _best(lines: Sequence[Line], yes: str, no: str) -> list[str]:
    """`yes` for the best line of each client count that has more than one."""
    ranked = [line for line in lines if line.ranked]
    firsts = {n: next(line for line in ranked if line.clients == n) for n in {line.clients for line in ranked}}
    rivals = {n: sum(line.clients == n for line in ranked) for n in firsts}
    return [yes if line.ranked and line is firsts[line.clients] and rivals[line.clients] > 1 else no for line in lines]


def notes(lines: Sequence[Line]) -> list[str]:
    """How to read the leaderboard: what accuracy and intervals mean here, and what was left out."""
    lasts = sorted({line.last for line in lines if line.last})
    many = {len(line.seeds) > 1 for line in lines}
    words = [f"Accuracy and loss: mean of the last {_either(lasts)} evaluation{'s' * (lasts != [1])} on the test set."] if lasts else []
    if many == {True}:
        words.append("± is the 95 % t-interval over seeds; costs are the mean of a run.")
    elif many == {False}:
        words.append("One seed: no interval, so small differences may be chance.")
    else:
        words.append("± is the 95 % t-interval over seeds, costs are the mean of a run; lines without ± have one seed, hence no interval.")
    left_out = sum(line.left_out for line in lines)
    if left_out:
        words.append(f"Not counted: {left_out} run{'s' * (left_out != 1)}, unfinished or a repetition of a seed.")
    return words


def write_report(results: Results, runs: Sequence[Run], target: Path) -> Path:
    """Write `report.html` and `figures/*.png` to the folder `target`, and give the page's path; the page opens without a network."""
    held = groups(results, runs)
    lines = summarize(held)
    pictures = dict(_pictures(results, runs, series(held, lines)))
    (target / "figures").mkdir(parents=True, exist_ok=True)
    for name, (figure, _) in pictures.items():
        (target / "figures" / f"{name}.png").write_bytes(figures.encode(figure, "png"))
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"percent": percent, "estimate": number, "count": count, "size": size, "duration": duration}
    environment.filters["exact"] = "{:,.0f}".format
    template = environment.from_string((importlib.resources.files("experiments") / "report.html.j2").read_text(encoding="utf-8"))
    page = template.render(
        alarm=_alarm(runs),
        question=_question(held, runs),
        setup=_setup(held, runs),
        findings=findings(lines),
        lines=list(zip(lines, _best(lines, "best", ""), strict=True)),
        notes=notes(lines),
        pictures={name: (_embed(figure), caption) for name, (figure, caption) in pictures.items()},
        runs=_details(results, runs),
        written=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
    )
    path = target / "report.html"
    path.write_text(page, encoding="utf-8")
    return path


def _pictures(results: Results, runs: Sequence[Run], drawn: Sequence[Series]) -> Iterator[tuple[str, tuple[Figure, str]]]:
    """(file name, (figure, caption)) of each figure that these runs give."""
    title = _alarm(runs)
    band = " Bands are 95 % intervals over seeds." if any(np.isfinite(one.half_width).any() for one in drawn) else ""
    if drawn:
        yield "accuracy-rounds", (figures.accuracy_curves(drawn, "rounds", title), f"Test accuracy against rounds.{band}")
        caption = f"Test accuracy against compute: one gradient evaluation is one example forward and backward, on any client.{band}"
        yield "accuracy-gradient-evaluations", (figures.accuracy_curves(drawn, "gradient_evaluations", title), caption)
    if len({one.clients for one in drawn}) > 1:
        caption = "Final test accuracy against the number of clients that share the same training examples."
        yield "accuracy-clients", (figures.accuracy_against_clients(drawn, title), caption)
    dealt: dict[tuple[int, str], Run] = {}
    for run in runs:
        dealt.setdefault((run.clients, part_text(flatten(run), "data.partition")), run)
    for place, ((clients, text), run) in enumerate(sorted(dealt.items())):
        counts = results.holdings(run.id)
        rest = f" The first {figures.SHOWN} of {clients} clients are shown." if clients > figures.SHOWN else ""
        caption = f"Who holds what: {clients} clients, {text}, seed {run.seed}. White: no example of that class.{rest}"
        yield f"holdings-{place + 1}-{clients}-clients", (figures.holdings(counts, title), caption)


def _embed(figure: Figure) -> str:
    return f"data:image/svg+xml;base64,{base64.b64encode(figures.encode(figure, 'svg')).decode()}"


def _alarm(runs: Sequence[Run]) -> str:
    """A warning when a dataset stood in for the one wanted; else empty."""
    swapped = sorted({(run.dataset_wanted, run.dataset) for run in runs if run.dataset != run.dataset_wanted})
    return "; ".join(f"NOT {wanted}: {used} was used instead" for wanted, used in swapped)


def labels(runs: Sequence[Run]) -> dict[str, str]:
    """A label for each run id: its name, its preset or its method's parts, with the settings in which the runs shown differ."""
    settings = {run.id: flatten(run) for run in runs}
    names = {run.id: run.name or run.config.get("method", "") for run in runs}
    peers = {name: [settings[run.id] for run in runs if names[run.id] == name] for name in names.values()}
    return {run.id: label(settings[run.id], peers[names[run.id]], names[run.id]) for run in runs}


def label(settings: Settings, shown: Sequence[Settings], name: str = "") -> str:
    """What to call the method of `settings` (flat) among those `shown`: `name`, or its optimizer and the parts that vary.

    >>> sgd, sam = {"client.optimizer.name": "sgd", "rounds": 3}, {"client.optimizer.name": "sam", "client.optimizer.rho": 0.1, "rounds": 3}
    >>> label(sam, [sgd, sam]), label(sam, [sgd, sam, sam | {"client.optimizer.rho": 0.2}]), label(sgd, [sgd, sgd | {"rounds": 9}])
    ('sam', 'sam(rho=0.1)', 'sgd, rounds=3')
    """
    varied = {part: text for part in PARTS if (text := _varied(settings, shown, part))}
    method = [varied[part] for part in METHOD if part in varied]
    if not name and "client.optimizer" not in varied:
        method.insert(0, settings["client.optimizer.name"])
    keys = [key for key in settings if key not in UNLABELLED and not any(key.startswith(f"{part}.") for part in PARTS)]
    rest = [f"{key.rpartition('.')[2]}={_plain(settings[key])}" for key in keys if len({_plain(other.get(key)) for other in shown}) > 1]
    return ", ".join(
        filter(None, [name, " × ".join(method), *(varied[part] for part in PARTS if part in varied and part not in METHOD), *rest])
    )


def _varied(settings: Settings, shown: Sequence[Settings], part: str) -> str:
    """The part with the hyperparameters in which it varies among `shown`; empty when all have it alike."""
    name = settings.get(f"{part}.name")
    same = [other for other in shown if other.get(f"{part}.name") == name]
    keys = [key for key in settings if key.startswith(f"{part}.") and len({_plain(other.get(key)) for other in same}) > 1]
    return _call(settings, part, keys) if keys or len(same) < len(shown) else ""


def part_text(settings: Settings, part: str) -> str:
    """A part with all its hyperparameters: `sam(lr=0.1, rho=0.05)`."""
    return _call(settings, part, [key for key in settings if key.startswith(f"{part}.") and key != f"{part}.name"])


def _call(settings: Settings, part: str, keys: Sequence[str]) -> str:
    given = ", ".join(f"{key.removeprefix(f'{part}.')}={_plain(settings[key])}" for key in keys)
    return f"{settings.get(f'{part}.name')}({given})" if given else str(settings.get(f"{part}.name"))


def flatten(run: Run) -> dict[str, Any]:
    """A run's settings by dotted key, with the dataset that was really used."""
    return dict(_flat(run.config, "")) | {"data.dataset": run.dataset}


def _flat(table: Settings, prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _plain(value: object) -> str:
    return json.dumps(value) if isinstance(value, list | bool) else str(value)


def _question(held: Sequence[Group], runs: Sequence[Run]) -> str:
    methods = list(dict.fromkeys(group.label for group in held))
    clients = sorted({group.clients for group in held})
    named = _either(methods) if len(methods) <= NAMED else f"{len(methods)} methods"
    asked = f"Which of {named} generalizes best" if len(methods) > 1 else f"How well does {methods[0]} generalize"
    where = f"when {_either(clients)} clients share {_either(sorted({run.dataset for run in runs}))}"
    return f"{asked} {where}, and what does it cost?"


def _setup(held: Sequence[Group], runs: Sequence[Run]) -> list[tuple[str, list[str]]]:
    """(what, its values) of the settings, in words."""
    flat = [flatten(run) for run in runs]
    own = {group.label: flatten(group.runs[0]) for group in held}
    methods = [f"{name}: {' × '.join(part_text(settings, part) for part in METHOD)}" for name, settings in own.items()]
    used = sorted(
        {
            f"{run.dataset}" + (f", because {run.dataset_wanted} could not be had" if run.dataset != run.dataset_wanted else "")
            for run in runs
        }
    )
    length = [
        f"{one['client.steps']} step{'s' * (one['client.steps'] != 1)}"
        if one.get("client.steps")
        else f"{one['client.epochs']} epoch{'s' * (one['client.epochs'] != 1)}"
        for one in flat
    ]
    local = [f"{many} in batches of {one['client.batch_size']}" for many, one in zip(length, flat, strict=True)]
    rows: list[tuple[str, list[str]]] = [
        ("Methods", methods),
        ("Dataset", used),
        ("Clients", [_either(sorted({run.clients for run in runs}))]),
        ("Partition", [part_text(one, "data.partition") for one in flat]),
        ("Cohort", [_cohort(one["server.participation"]) for one in flat]),
        ("Rounds", [str(one["rounds"]) for one in flat]),
        ("Local training", local),
        ("Local learning rate", [part_text(one, "client.schedule") for one in flat]),
        ("Model", [part_text(one, "model") for one in flat]),
        ("Seeds", [", ".join(str(seed) for seed in sorted({run.seed for run in runs}))]),
    ]
    return [(what, list(dict.fromkeys(values))) for what, values in rows]


def _cohort(participation: float) -> str:
    return f"{participation} clients per round" if isinstance(participation, int) else f"{100 * participation:g} % of the clients per round"


def _either(values: Sequence[object]) -> str:
    """Values as a person lists them.

    >>> _either([1]), _either([1, 2]), _either([1, 2, 3])
    ('1', '1 and 2', '1, 2 and 3')
    """
    return " and ".join(filter(None, [", ".join(str(value) for value in values[:-1]), str(values[-1])]))


def _details(results: Results, runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Each run with its label, last cumulative row and settings, for the tables at the end."""
    names = labels(runs)
    rows = {run.id: results.rounds(run.id) for run in runs}
    return [
        {
            "run": run,
            "label": names[run.id],
            "rounds": len(rows[run.id]),
            "cost": cumulative(rows[run.id])[-1] if rows[run.id] else None,
            "settings": "\n".join(f"{key} = {_toml(value)}" for key, value in _flat(run.config, "")),
        }
        for run in runs
    ]


def _toml(value: object) -> str:
    """A value as TOML, which writes plain values as JSON does, infinity and NaN apart."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else json.dumps(value, ensure_ascii=False)


def percent(estimate: Estimate | None) -> str:
    """A fraction in percent with its interval: `62.31 ± 0.84 %`."""
    return _with_interval(estimate, 100, 2) + " %" if estimate and math.isfinite(estimate.mean) else number(estimate)


def number(estimate: Estimate | None) -> str:
    """An estimate with its interval; `diverged` for NaN, a dash for None."""
    if estimate is None:
        return "–"
    return _with_interval(estimate, 1, 3) if math.isfinite(estimate.mean) else "diverged"


def _with_interval(estimate: Estimate, scale: float, digits: int) -> str:
    interval = "" if estimate.half_width is None else f" ± {scale * estimate.half_width:.{digits}f}"
    return f"{scale * estimate.mean:.{digits}f}{interval}"


def count(value: float) -> str:
    """A number of things to three digits.

    >>> count(950), count(1_250_000)
    ('950', '1.25 M')
    """
    return _scaled(value, ("", "k", "M", "G", "T", "P"))


def size(value: float) -> str:
    """Bytes to three digits, in powers of 1000.

    >>> size(1_234_567)
    '1.23 MB'
    """
    return _scaled(value, ("B", "kB", "MB", "GB", "TB", "PB"))


def _scaled(value: float, units: Sequence[str]) -> str:
    power = 0
    while abs(value) >= 999.5 and power < len(units) - 1:
        value, power = value / 1000, power + 1
    text = str(round(value)) if value == round(value) and not power else _digits(value)
    return f"{text} {units[power]}".strip()


def duration(seconds: float) -> str:
    """Seconds to three digits, in the largest unit that fits.

    >>> duration(3.21), duration(125), duration(7260)
    ('3.21 s', '2.08 min', '2.02 h')
    """
    for unit, length in (("h", 3600.0), ("min", 60.0)):
        if seconds >= length:
            return f"{_digits(seconds / length)} {unit}"
    return f"{_digits(seconds)} s"


def _digits(value: float) -> str:
    return f"{value:.{max(0, 2 - int(math.log10(max(abs(value), 1))))}f}"
