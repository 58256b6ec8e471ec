"""The page about all settings."""

from __future__ import annotations

from experiments.documentation.markdown import code, escaped, page, table
from experiments.reference import settings

# Kinds of components that have a page each.
FOLDERS = ("optimizers", "corrections", "strategies")


def settings_page() -> str:
    """Every setting of a file, table by table."""
    parts = [
        "Everything that a TOML file may set, with its default; `-o KEY=VALUE` and the tables of `fedsam.run` take the same keys. "
        "`fedsam explain KEY` prints what is said here, and `fedsam run FILE --print-config` a file with every setting in it."
    ]
    for found in settings.tables():
        title = f"[{found.key}]" if found.key else "In no table"
        rows = [[code(one.key), code(one.default), escaped(one.allowed) + _link(one.kind), escaped(one.meaning)] for one in found.settings]
        parts += [f"## {title}", escaped(found.meaning), table(["setting", "default", "allowed", "meaning"], rows)]
    return page("Settings", *parts)


def _link(kind: str) -> str:
    """Where the components of a kind are described."""
    return f" ([{kind}]({kind}/index.md))" if kind in FOLDERS else f" ([{kind}]({kind}.md))" if kind else ""
