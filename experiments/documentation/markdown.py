"""Text, tables and code as Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence


def escaped(text: str) -> str:
    r"""Text of others in a paragraph or table: what Markdown gives a meaning stands for itself, code in backticks aside.

    >>> escaped("the norm |w| of `a | b`")
    'the norm \\|w\\| of `a \\| b`'
    """
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(part.replace("|", r"\|") if part.startswith("`") else re.sub(r"([\\|*_<>\[\]#])", r"\\\1", part) for part in parts)


def code(text: str) -> str:
    """Text in the type of code; nothing where there is none.

    >>> code("sam"), code("")
    ('`sam`', '')
    """
    return f"`{text}`".replace("|", r"\|") if text else ""


def block(text: str, language: str) -> str:
    """A block of code."""
    return f"```{language}\n{text.rstrip()}\n```"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of cells that are Markdown already.

    >>> print(table(["a", "b"], [["1", "2"]]))
    | a | b |
    | --- | --- |
    | 1 | 2 |
    """
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def page(title: str, *parts: str) -> str:
    """A page of a title and parts, those that are empty left out."""
    return "\n\n".join([f"# {title}", *filter(None, parts)]) + "\n"
