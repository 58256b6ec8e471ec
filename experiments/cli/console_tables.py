"""Tables for the terminal: what can be chosen by name, the runs there are, who holds which examples."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table
from rich.text import Text

from experiments.settings.presets import COMPONENT_KEYS, PRESETS, Preset, expand
from fedsam import plugins, wording
from fedsam.config import ConfigError
from fedsam.documentation import descriptions
from fedsam.formatting import literal
from fedsam.registry import Registry, hyperparameters

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from clients.optimizers.base import LocalOptimizer
    from fedsam.results.listing import ListedRun

Entry = Callable[..., Any]
MAX_CLIENTS = 20  # in the table of a label distribution
NAME_KEYS = {f"{key}{inner}.name" for key in COMPONENT_KEYS for inner in ("", ".inner")}


@dataclass(frozen=True)
class Setting:
    """A hyperparameter as a person reads it; `default` is empty when it must be given."""

    name: str
    default: str
    allowed: str
    meaning: str


@dataclass(frozen=True)
class Description:
    """A component as a person reads it."""

    summary: str
    settings: tuple[Setting, ...]
    source: str


def shown(kind: str, entries: Mapping[str, Any]) -> list[Table]:
    """All there is to say of components of one kind; what somebody else's optimizers cost, `fedsam check` measures."""
    from clients.optimizers import OPTIMIZERS

    ours = {name: entry for name, entry in entries.items() if name in OPTIMIZERS} if kind == "optimizers" else {}
    return [components_table(kind, entries), *([costs(ours)] if ours else [])]


def components_table(kind: str, entries: Mapping[str, Entry | Preset]) -> Table:
    """The components of one kind: settings with defaults and limits, and the source; what all of them share stands once, under `all`."""
    if kind == "methods":
        return methods([name for name, entry in entries.items() if isinstance(entry, Preset)])
    components = {name: _description(entry) for name, entry in entries.items() if not isinstance(entry, Preset)}
    shared = _shared([component.settings for component in components.values()])
    components |= _registered(entries) if isinstance(entries, Registry) else {}
    result = Table(title=kind, title_justify="left", title_style="bold", header_style="bold", expand=False)
    for column, style in (("name", "bold cyan"), ("setting", "cyan"), ("default", ""), ("allowed", "")):
        result.add_column(column, style=style, overflow="fold")
    result.add_column("meaning", overflow="fold", min_width=30, max_width=80)
    for name, component in components.items():
        result.add_section()
        result.add_row(literal(name), "", "", "", literal(component.summary))
        _add(result, [setting for setting in component.settings if setting not in shared])
        if component.source:
            result.add_row("", "", "", "", Text.assemble(literal(component.source), style="dim"))
    if shared:
        result.add_section()
        result.add_row("all", "", "", "", f"Settings of all {kind}.")
        _add(result, shared)
    return result


def _description(entry: Entry, leading: int | None = None) -> Description:
    return Description(summary(entry), tuple(settings_of(entry, leading)), source(entry))


def _registered(registry: Registry[Any]) -> dict[str, Description]:
    """What installed packages register, with the package; also what cannot be used, and why."""
    components = {}
    for name, point in plugins.entry_points(registry.kind).items():
        package = f"From {plugins.origin(point)}."
        if name in registry:
            components[f"{name} "] = Description(f"Out of reach: the name is fedsam's. {package}", (), "")
            continue
        try:
            component = _description(registry.find(name, registry.kind), registry.contract.leading)
        except ConfigError as error:
            components[name] = Description(f"Cannot be used: {error}", (), package)
        else:
            components[name] = replace(component, source=f"{component.source} {package}".strip())
    return components


def costs(optimizers: Mapping[str, type[LocalOptimizer]]) -> Table:
    """Evaluations per step of the local optimizers: as declared beside as counted."""
    from clients.optimizers.cost import LETTERS
    from experiments.settings import step_cost

    result = Table(title="costs of optimizers", title_justify="left", title_style="bold", header_style="bold")
    result.add_column("name", style="bold cyan", no_wrap=True)
    for kind in ("forward", "backward"):
        result.add_column(f"{kind},\ndocumented", overflow="fold")
        result.add_column(f"{kind},\nmeasured", justify="right")
    result.add_column("where", overflow="fold")
    result.caption = (
        "passes per example and local step: forward only, and forward and backward; measured on a toy problem after the method's start, "
        f"with the defaults unless said; {', '.join(f'{letter} {meaning}' for letter, meaning in LETTERS.items())}"
    )
    for name, optimizer in optimizers.items():
        built, got, variables = step_cost.on_toy(name, optimizer)
        cost = step_cost.declared(optimizer)
        cells = [_equation(*pair) for pair in zip(cost.texts(), cost.evaluations(built, variables), strict=True)]
        names = dict.fromkeys([*re.findall(r"[A-Za-z]\w*", " ".join(cost.texts())), *step_cost.PUBLISHED.get(name, {})])
        where = ", ".join(f"{key} = {wording.value(getattr(variables if hasattr(variables, key) else built, key))}" for key in names)
        result.add_row(name, cells[0], f"{got.forward:.4g}", cells[1], f"{got.backward:.4g}", "\n".join(filter(None, [where, cost.note])))
    return result


def _equation(text: str, value: float) -> str:
    """A formula with its value, which a plain number is already."""
    return text if text.isdigit() else f"{text} = {value:.4g}"


def methods(names: Sequence[str]) -> Table:
    """Presets: their three components, what they cost, what else they set, and the source."""
    from experiments.settings.method import Method
    from experiments.settings.method_cost import cost

    result = Table(title="methods", title_justify="left", title_style="bold", header_style="bold", expand=False)
    result.add_column("name", style="bold cyan", overflow="fold")
    result.add_column("optimizer x correction x strategy", overflow="fold")
    for column in ("down", "up", "client\nstate", "server\nstate", "gradients\nper step", "forwards\nper step"):
        result.add_column(column, justify="right")
    result.add_column("settings", overflow="fold", min_width=30, max_width=80)
    result.caption = "down, up, state: vectors of the model's size per active client and round; passes: per example and local step"
    for name in names:
        preset = PRESETS[name]
        experiment = expand({"method": name})
        costs = dataclasses.astuple(cost(Method.of(experiment), experiment.rounds))
        rest = ", ".join(f"{key} = {wording.value(value)}" for key, value in preset.settings.items() if key not in NAME_KEYS)
        result.add_section()
        result.add_row(name, preset.expansion, *(f"{value:g}" for value in costs), literal(rest))
        result.add_row("", *[""] * 7, Text.assemble(literal(f"Source: {preset.source}"), style="dim"))
    return result


def _shared(settings: Sequence[tuple[Setting, ...]]) -> tuple[Setting, ...]:
    return tuple(s for s in settings[0] if all(s in others for others in settings)) if len(settings) > 1 else ()


def _add(result: Table, settings: Sequence[Setting]) -> None:
    for setting in settings:
        result.add_row("", *map(literal, (setting.name, setting.default, setting.allowed, setting.meaning)))


def runs(entries: Sequence[ListedRun]) -> Table:
    """Runs, what they came to, and how many rounds each has finished; ids stay in one piece."""
    result = Table(box=box.SIMPLE_HEAD, padding=(0, 0), header_style="bold", show_edge=False)
    result.add_column("run", no_wrap=True, min_width=max((len(one.run.id) for one in entries), default=0))
    result.add_column("method", overflow="fold", min_width=9)
    result.add_column("dataset", overflow="fold", min_width=6)
    for column in ("cli-\nents", "seed", "rounds", "accu-\nracy"):
        result.add_column(column, justify="right", no_wrap=True)
    result.add_column("status", no_wrap=True)
    if any(one.tags for one in entries):
        result.add_column("tags", overflow="fold", min_width=5)
    for one in entries:
        run = one.run
        cells = [
            run.id,
            run.method,
            run.dataset if run.dataset == run.dataset_wanted else f"{run.dataset}*",
            str(run.clients),
            str(run.seed),
            f"{one.rounds}" if run.config.get("budget") else f"{one.rounds}/{run.config['rounds']}",
            "–" if one.accuracy is None else f"{100 * one.accuracy:.2f}",
            one.status,
            ", ".join(one.tags),
        ]
        result.add_row(*(literal(cell) for cell in cells[: len(result.columns)]))
    swapped = {(one.run.dataset_wanted, one.run.dataset) for one in entries if one.run.dataset != one.run.dataset_wanted}
    result.caption = literal("\n".join(f"* {used} in the place of {wanted}" for wanted, used in sorted(swapped)))
    result.caption_justify = "left"
    return result


def label_distribution(counts: NDArray[np.integer[Any]], names: Sequence[str] = ()) -> Table:
    """Examples of each class that each client holds (clients, classes): the first clients, then the spread over all.

    Args:
        names: Of the classes; empty: they are numbered.
    """
    sizes, kinds = counts.sum(axis=1), (counts > 0).sum(axis=1)
    result = Table(header_style="bold", caption=f"the first {MAX_CLIENTS} of {len(counts)} clients" if len(counts) > MAX_CLIENTS else None)
    kinds_named = names or [f"class\n{kind}" for kind in range(counts.shape[1])]
    for column in ("client", "examples", "classes", *kinds_named):
        result.add_column(literal(column), justify="right")
    for client, row in enumerate(counts[:MAX_CLIENTS]):
        result.add_row(str(client), str(sizes[client]), str(kinds[client]), *(str(count) if count else "." for count in row))
    result.add_section()
    for word, share in (("least", 0), ("median", 50), ("most", 100)):
        columns = (_percentile(values, share) for values in (sizes, kinds, *counts.T))
        result.add_row(word, *columns)
    return result


def _percentile(values: NDArray[np.integer[Any]], share: int) -> str:
    import numpy as np

    return f"{np.percentile(values, share):g}"


def settings_of(entry: Entry, leading: int | None = None) -> Iterator[Setting]:
    """The hyperparameters of a component, in the order of its signature; `leading` as for `hyperparameters`."""
    meanings = descriptions(entry)
    for name, field in wording.schemas(hyperparameters(entry, leading)).items():
        default = wording.value(field["default"]) if "default" in field else ""
        yield Setting(name, default, wording.allowed(field), meanings.get(name, ""))


def summary(entry: Entry) -> str:
    """The first sentence of an entry's docstring, joined to one line."""
    return " ".join((inspect.getdoc(entry) or "").partition("\n\n")[0].split())


def source(entry: Entry) -> str:
    """Where an entry comes from, as it declares; empty when it does not."""
    declared = getattr(entry, "__dict__", {}).get("source")
    return f"Source: {declared}" if declared else ""
