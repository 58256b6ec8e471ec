"""What runs show: the leaderboard in the terminal, and one HTML page with figures that opens offline."""

from __future__ import annotations

import base64
import importlib.resources
import json
import math
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from matplotlib.figure import Figure
from rich import box
from rich.markup import escape
from rich.table import Table

from experiments import figures
from experiments.figures import Series
from experiments.labels import METHOD, flatten, labels, leaves, part_text
from experiments.readable import count, duration, listed, number, percent, size
from experiments.summary import Estimate, Group, Line, groups, summarize
from fedsam.results import Results
from fedsam.rows import Run, cumulative

NAMED = 4  # methods at most that the title names
COMPARED = 3  # methods that the best one is compared with in words


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
    table.caption = escape("\n".join([f"Rounds: {listed(sorted({line.rounds for line in lines}))}.", *notes(lines), *unfinished]))
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
    words = [f"Accuracy and loss: mean of the last {listed(lasts)} evaluation{'s' * (lasts != [1])} on the test set."] if lasts else []
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


def _question(held: Sequence[Group], runs: Sequence[Run]) -> str:
    methods = list(dict.fromkeys(group.label for group in held))
    clients = sorted({group.clients for group in held})
    named = listed(methods) if len(methods) <= NAMED else f"{len(methods)} methods"
    asked = f"Which of {named} generalizes best" if len(methods) > 1 else f"How well does {methods[0]} generalize"
    where = f"when {listed(clients)} clients share {listed(sorted({run.dataset for run in runs}))}"
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
        ("Clients", [listed(sorted({run.clients for run in runs}))]),
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
            "settings": "\n".join(f"{key} = {_toml(value)}" for key, value in leaves(run.config)),
        }
        for run in runs
    ]


def _toml(value: object) -> str:
    """A value as TOML, which writes plain values as JSON does, infinity and NaN apart."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else json.dumps(value, ensure_ascii=False)
