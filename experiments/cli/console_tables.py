"""Tables for the terminal: what can be chosen by name, the runs there are, who holds which examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table
from rich.text import Text

from experiments.settings import descriptions
from experiments.settings.descriptions import Description, Setting, StepCostCells
from experiments.settings.presets import COMPONENT_KEYS, PRESETS, Preset, unknown_names
from fedsam import plugins, wording
from fedsam.formatting import literal
from fedsam.renamed import current_name
from fedsam.wording import ConfigError, nearest

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from fedsam.results.listing import ListedRun

MAX_CLIENTS = 20  # in the table of a label distribution
NAME_KEYS = {f"{key}{inner}.name" for key in COMPONENT_KEYS for inner in ("", ".inner")}


def shown(kind: str, given: Sequence[str] = ()) -> list[Table]:
    """All there is to say of components of one kind; what somebody else's optimizers cost, `fedsam check` measures.

    Args:
        given: Their names; empty: all of them.

    Raises:
        ConfigError: There is no such component.
    """
    if kind == "methods":
        return [methods([_method(name) for name in given] or list(PRESETS))]
    ours = descriptions.of(kind)
    found = {name: ours.get(current_name(kind, name)) or _elsewhere(kind, name) for name in given} or ours
    measured = {name: cells for name, cells in descriptions.step_costs().items() if name in found} if kind == "optimizers" else {}
    return [components_table(kind, found, {} if given else _registered(kind)), *([costs(measured)] if measured else [])]


def _method(name: str) -> str:
    if name not in PRESETS:
        raise ConfigError(f"methods: {name!r} is not known{nearest(name, list(PRESETS))}; allowed: {', '.join(sorted(PRESETS))}")
    return name


def _elsewhere(kind: str, name: str) -> Description:
    """A component that is not ours. Raises `ConfigError` where there is none of the name."""
    from experiments.settings.catalogue import TABLES
    from experiments.settings.describing import describe

    registry: Any = TABLES[kind]
    with unknown_names():
        return describe(registry.find(name, kind))


def components_table(kind: str, components: Mapping[str, Description], registered: Mapping[str, Description]) -> Table:
    """The components of one kind: settings with defaults and limits, and the source; what all of them share stands once, under `all`."""
    shared = _shared([component.settings for component in components.values()])
    result = Table(title=kind, title_justify="left", title_style="bold", header_style="bold", expand=False)
    for column, style in (("name", "bold cyan"), ("setting", "cyan"), ("default", ""), ("allowed", "")):
        result.add_column(column, style=style, overflow="fold")
    result.add_column("meaning", overflow="fold", min_width=30, max_width=80)
    for name, component in {**components, **registered}.items():
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


def _registered(kind: str) -> dict[str, Description]:
    """What installed packages register, with the package; also what cannot be used, and why."""
    if not (registered := plugins.entry_points(kind)):
        return {}
    from experiments.settings.catalogue import TABLES
    from experiments.settings.describing import describe

    registry: Any = TABLES[kind]
    components = {}
    for name, point in registered.items():
        package = f"From {plugins.origin(point)}."
        if name in registry:
            components[f"{name} "] = Description(f"Out of reach: the name is fedsam's. {package}", (), "")
            continue
        try:
            component = describe(registry.find(name, registry.kind), registry.contract.leading)
        except ConfigError as error:
            components[name] = Description(f"Cannot be used: {error}", (), package)
        else:
            components[name] = replace(component, source=f"{component.source} {package}".strip())
    return components


def costs(measured: Mapping[str, StepCostCells]) -> Table:
    """Evaluations per step of local optimizers: as declared beside as counted."""
    result = Table(title="costs of optimizers", title_justify="left", title_style="bold", header_style="bold")
    result.add_column("name", style="bold cyan", no_wrap=True)
    for kind in ("forward", "backward"):
        result.add_column(f"{kind},\ndocumented", overflow="fold")
        result.add_column(f"{kind},\nmeasured", justify="right")
    result.add_column("where", overflow="fold")
    result.caption = (
        "passes per example and local step: forward only, and forward and backward; measured on a toy problem after the method's start, "
        f"with the defaults unless said; {', '.join(f'{letter} {meaning}' for letter, meaning in descriptions.letters().items())}"
    )
    for name, cells in measured.items():
        result.add_row(name, *cells)
    return result


def methods(names: Sequence[str]) -> Table:
    """Presets: their three components, what they cost, what else they set, and the source."""
    result = Table(title="methods", title_justify="left", title_style="bold", header_style="bold", expand=False)
    result.add_column("name", style="bold cyan", overflow="fold")
    result.add_column("optimizer x correction x strategy", overflow="fold")
    for column in ("down", "up", "client\nstate", "server\nstate", "gradients\nper step", "forwards\nper step"):
        result.add_column(column, justify="right")
    result.add_column("settings", overflow="fold", min_width=30, max_width=80)
    result.caption = "down, up, state: vectors of the model's size per active client and round; passes: per example and local step"
    costs = descriptions.method_costs()
    for name in names:
        preset = PRESETS[name]
        rest = ", ".join(f"{key} = {wording.value(value)}" for key, value in preset.settings.items() if key not in NAME_KEYS)
        result.add_section()
        result.add_row(name, preset.expansion, *(f"{value:g}" for value in costs[name]), literal(rest))
        result.add_row("", *[""] * 7, Text.assemble(literal(f"Source: {preset.source}. {_backing(preset)}"), style="dim"))
    return result


def _backing(preset: Preset) -> str:
    """What the preset's numbers are tested with, in a sentence."""
    return "No golden trajectory." if preset.golden == "none" else f"Golden trajectory: {preset.golden}."


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
            one.status if one.diverged is None else f"diverged\nin round {one.diverged}",
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
