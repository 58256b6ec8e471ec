"""Pages about methods: one for each preset."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from experiments.documentation.golden import GoldenCase, of, proof
from experiments.documentation.markdown import block, code, escaped, page, table
from experiments.settings import descriptions
from experiments.settings.names import KINDS
from experiments.settings.presets import COMPONENT_KEYS, PRESETS, Preset
from experiments.settings.toml import toml
from fedsam.overrides import override

COSTS = ("down", "up", "client state", "server state", "gradient evaluations", "forward only")
KIND_OF = {kind.setting: name for name, kind in KINDS.items()}
BACKED = {
    "authors": "code that its authors released",
    "reconstruction": "code of others, or released code with a formula exchanged",
    "equations": "the paper's equations, computed for this purpose",
    "none": "nothing: there is no recorded trajectory",
}


def pages(cases: Sequence[GoldenCase]) -> Iterator[tuple[str, str]]:
    """Paths and texts of all pages about methods; the paths start at the folder of the reference."""
    yield "methods/index.md", _list_of()
    for name, preset in PRESETS.items():
        yield f"methods/{name}.md", method_page(name, preset, cases)


def method_page(name: str, preset: Preset, cases: Sequence[GoldenCase]) -> str:
    """The page of a method."""
    parts = {key: value for key, value in preset.settings.items() if key.endswith(".name") and _kind(key)}
    rows = [
        [code(key.removesuffix(".name")), f"[{value}](../{_kind(key)}/{value}.md)", _summary(key, value)] for key, value in parts.items()
    ]
    return page(
        name,
        f"{escaped(preset.expansion)}, {preset.year}.",
        f"**Source:** {escaped(preset.source)}",
        "## Components",
        table(["setting", "component", "what it does"], rows),
        "The pages of the components have the equations.",
        "## Cost",
        _cost_table([name]),
        _COST_NOTE,
        "## Settings",
        "By name; what a file or `-o` sets besides wins over what the method sets:",
        block(toml({"method": name}), "toml"),
        "The same written out, its recipe included:",
        block(toml(override({}, dict(preset.settings))), "toml"),
        "## What its golden file proves",
        f"Its numbers are backed by {BACKED[preset.golden]}.",
        proof(of(cases, "methods", name)),
    )


_COST_NOTE = (
    "Down, up and state are counted in vectors of the model's size, for one active client and round; evaluations for one example and "
    "local step. Counted on a toy problem."
)


def _kind(key: str) -> str:
    """The kind of the component that a key names; empty where it has no page of its own."""
    place = key.removesuffix(".name")
    while place.endswith(".inner"):
        place = place.removesuffix(".inner")
    return KIND_OF[place] if place in COMPONENT_KEYS else ""


def _summary(key: str, name: str) -> str:
    return escaped(descriptions.of(_kind(key))[name].summary)


def _cost_table(names: Sequence[str], link: bool = False) -> str:
    costs: Mapping[str, Any] = descriptions.method_costs()
    rows = [[*([f"[{name}]({name}.md)"] if link else []), *(f"{value:.4g}" for value in costs[name])] for name in names]
    return table([*(["method"] if link else []), *COSTS], rows)


def _list_of() -> str:
    rows = [[f"[{name}]({name}.md)", escaped(preset.expansion), str(preset.year), preset.golden] for name, preset in PRESETS.items()]
    backed = "\n".join(f"- `{name}`: {text}." for name, text in BACKED.items())
    return page(
        "Methods",
        'Published algorithms by name: `method = "fedsam"` sets the three components and the recipe that it was published with.',
        table(["method", "optimizer × correction × strategy", "year", "golden"], rows),
        f"What computed the trajectory that a method is tested with:\n\n{backed}",
        "## Cost",
        _cost_table(list(PRESETS), link=True),
        _COST_NOTE,
    )
