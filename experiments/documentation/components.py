"""Pages about components: one for each local optimizer, correction and server strategy, one for each other kind."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from clients.corrections import CORRECTIONS, Correction
from clients.optimizers import OPTIMIZERS
from experiments.documentation.golden import GoldenCase, of, proof
from experiments.documentation.markdown import block, code, escaped, page, table
from experiments.documentation.rule import rule
from experiments.settings import descriptions
from experiments.settings.descriptions import Description, Setting
from experiments.settings.names import KINDS
from experiments.settings.presets import PRESETS
from fedsam.formatting import plural
from fedsam.registry import Registry
from strategies import STRATEGIES, ServerRule

WITH_PAGES: Mapping[str, Registry[Any]] = {"optimizers": OPTIMIZERS, "corrections": CORRECTIONS, "strategies": STRATEGIES}
SETTING_HEADER = ("setting", "default", "allowed", "meaning")


def pages(cases: Sequence[GoldenCase]) -> Iterator[tuple[str, str]]:
    """Paths and texts of all pages about components; the paths start at the folder of the reference."""
    for kind, registry in WITH_PAGES.items():
        described = descriptions.of(kind)
        yield f"{kind}/index.md", _list_of(kind, described)
        for name in registry:
            yield f"{kind}/{name}.md", component_page(kind, name, cases)
    for kind in KINDS:
        if kind not in WITH_PAGES:
            yield f"{kind}.md", _kind_page(kind, descriptions.of(kind))


def component_page(kind: str, name: str, cases: Sequence[GoldenCase]) -> str:
    """The page of a local optimizer, correction or server strategy."""
    described, component = descriptions.of(kind)[name], WITH_PAGES[kind][name]
    users = [method for method, preset in PRESETS.items() if name in _names(preset.settings, KINDS[kind].setting)]
    own = of(cases, kind, name)
    proven = proof(own) if own or not any(of(cases, "methods", method) for method in users) else ""
    through = [method for method in users if of(cases, "methods", method)]
    if (through and kind != "optimizers") or (through and not own):
        links = ", ".join(f"[{method}](../methods/{method}.md)" for method in through)
        proven = f"{proven}\n\nIt takes part in the recorded trajectories of these methods: {links}.".strip()
    return page(
        name,
        f'*A {KINDS[kind].noun}: `{KINDS[kind].setting} = "{name}"`.* {escaped(described.summary)}',
        _source(described),
        "## Equations",
        _rule(component),
        "## Cost",
        _COST[kind](name),
        "## Settings",
        _settings(kind, described),
        "## What its golden file proves",
        proven,
        "## Methods that use it",
        "\n".join(f"- [{method}](../methods/{method}.md): {PRESETS[method].expansion}" for method in users) or "No preset does.",
    )


def _names(settings: Mapping[str, Any], key: str) -> set[str]:
    """The components that a method names at a key, those inside each other included."""
    return {value for name, value in settings.items() if name.startswith(key) and name.endswith(".name")}


def _source(described: Description) -> str:
    return escaped(described.source.replace("Source:", "**Source:**", 1)).replace(r"\*\*Source:\*\*", "**Source:**")


def _rule(component: type) -> str:
    """The symbols and the code that computes."""
    legend, text = rule(component)
    if not text:
        return "It adds nothing."
    symbols = f" Symbols: {escaped(legend)}" if legend else ""
    return f"As the code that runs.{symbols}\n\n{block(text, 'python')}"


def _settings(kind: str, described: Description) -> str:
    shared = _shared(kind)
    own = [setting for setting in described.settings if setting not in shared]
    also = [code(setting.name) for setting in shared if setting.name not in {one.name for one in own}]
    rest = f"{'It also has those' if own else 'It has those'} [that all have](index.md#settings-that-all-have): {', '.join(also)}."
    return "\n\n".join([*([settings_table(own)] if own else []), *([rest] if also else [])]) or "It has none."


def settings_table(settings: Sequence[Setting]) -> str:
    """Hyperparameters with default, what is allowed and meaning."""
    return table(SETTING_HEADER, [[code(one.name), code(one.default), escaped(one.allowed), escaped(one.meaning)] for one in settings])


def _shared(kind: str) -> tuple[Setting, ...]:
    """The hyperparameters of the base of a kind; local optimizers have some, which are all that `sgd` has."""
    return descriptions.of(kind)["sgd"].settings if kind == "optimizers" else ()


def _optimizer_cost(name: str) -> str:
    cost = OPTIMIZERS[name].cost
    cells = descriptions.step_costs()[name]
    measured = f"{cells.forward_measured} forward, {cells.backward_measured} forward and backward"
    where = f" ({cells.where})".replace("\n", "; ") if cells.where else ""
    return escaped(f"{cost} This is what it declares; counted on a toy problem, after its start: {measured}{where}.")


def _correction_cost(name: str) -> str:
    correction: Correction = CORRECTIONS[name]()
    rows = [
        ("a client keeps between rounds", correction.keeps),
        ("comes down besides the global vector", correction.needs),
        ("goes up besides the delta", correction.sends),
    ]
    lines = [f"- What {what}: {_vectors(names)}." for what, names in rows]
    return "\n".join([*lines, "", "With its defaults; each vector has the model's size."])


def _vectors(names: Sequence[str]) -> str:
    return ", ".join(map(code, names)) if names else "nothing"


def _strategy_cost(name: str) -> str:
    strategy: ServerRule = STRATEGIES[name]()
    w = torch.zeros(7)
    state = strategy.init_state(w)
    down = [vector for vector in strategy.broadcast(w, state) if vector != "w"]
    lines = [
        f"- What the server keeps besides the global vector: {plural(_kept(state, w.numel()), 'vector')}.",
        f"- What comes down besides the global vector: {_vectors(down)}.",
        f"- What it expects of clients besides the delta: {_vectors(strategy.expects)}.",
    ]
    return "\n".join([*lines, "", "With its defaults; each vector has the model's size, `metrics` are numbers."])


def _kept(state: Mapping[str, Any], size: int) -> int:
    """The vectors of a state, that of an inner rule included."""
    vectors = sum(isinstance(value, Tensor) and value.numel() == size for value in state.values())
    return vectors + sum(_kept(value, size) for value in state.values() if isinstance(value, Mapping))


_COST = {"optimizers": _optimizer_cost, "corrections": _correction_cost, "strategies": _strategy_cost}


def _list_of(kind: str, described: Mapping[str, Description]) -> str:
    """All components of a kind, and what they have in common."""
    setting = KINDS[kind].setting
    costs = descriptions.step_costs() if kind == "optimizers" else {}
    header = ["name", "what it does", *(["gradient evaluations", "forward only"] if costs else [])]
    rows = [
        [f"[{name}]({name}.md)", escaped(one.summary), *([escaped(costs[name].backward), escaped(costs[name].forward)] if costs else [])]
        for name, one in described.items()
    ]
    note = "Evaluations are those of one local step and example, as declared; the pages have those that were counted." if costs else ""
    shared = _shared(kind)
    common = ["## Settings that all have", settings_table(shared)] if shared else []
    own = f'`{setting} = "module:attribute"` takes one of your own; see [Your own components](../../howto/own-method.md).'
    return page(kind.capitalize(), f"What `{setting}` may name. {own}", table(header, rows), note, *common)


def _kind_page(kind: str, described: Mapping[str, Description]) -> str:
    """One page about all components of a kind that need no page each."""
    noun, setting = KINDS[kind]
    parts = [f"What `{setting}` may name, a {noun} each. `fedsam list {kind}` prints them."]
    for name, one in described.items():
        parts += [f"## {name}", escaped(one.summary), _source(one), settings_table(one.settings) if one.settings else ""]
    return page(kind.capitalize(), *parts)
