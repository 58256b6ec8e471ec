"""What `mkdocs build` does besides its own: pages made of the code, pages of files that lie elsewhere, a look at what pages load."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # for `tests`, which is not installed

# Pages and figures that have their place elsewhere in the repository.
ELSEWHERE = {
    "security.md": "SECURITY.md",
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
    "howto/clusters.md": "experiments/deployment/README.md",
    "results/benchmark-notes.md": "experiments/benchmarks/NOTES.md",
    **{f"results/{path.name}": str(path.relative_to(ROOT)) for path in sorted((ROOT / "experiments/published").iterdir())},
}
LOADING = {"script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src", "audio": "src", "embed": "src", "link": "href"}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """A folder in the navigation becomes the list of its pages."""
    made = _made()
    config.nav = _listed(config.nav, made)
    config.extra["made"] = made
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Pages that are made, and those that lie elsewhere."""
    for path, text in config.extra["made"].items():
        files.append(File.generated(config, path, content=text))
    for path, source in ELSEWHERE.items():
        if path.endswith(".md"):
            text = (ROOT / source).read_text(encoding="utf-8").replace("](docs/", "](")
            files.append(File.generated(config, path, content=text))
        else:
            files.append(File.generated(config, path, abs_src_path=str(ROOT / source)))
    return files


def on_post_build(config: MkDocsConfig) -> None:
    """Raises `PluginError` where a page loads something from the network."""
    site = Path(config.site_dir)
    wrong = [f"{path}: {url}" for path in sorted(site.rglob("*.html")) for url in _loaded(path.read_text(encoding="utf-8"))]
    sheets = [path for path in sorted(site.rglob("*.css")) if "url(http" in path.read_text(encoding="utf-8")]
    if wrong or sheets:
        raise PluginError("pages load from the network: " + ", ".join([*wrong, *map(str, sheets)]))


def _made() -> dict[str, str]:
    """The pages about components, methods, settings and commands, by path."""
    from experiments.documentation import commands, components, methods, settings
    from tests.golden_replay.listing import golden_cases

    cases = list(golden_cases())
    pages = {**dict(components.pages(cases)), **dict(methods.pages(cases))}
    pages |= {"settings.md": settings.settings_page(), "commands.md": commands.commands_page()}
    return {f"reference/{path}": text for path, text in pages.items()} | {"tutorial.md": _notebook(ROOT / "docs" / "tutorial.ipynb")}


def _notebook(path: Path) -> str:
    """A notebook as a page: its texts, its code, and what the cells gave."""
    from experiments.documentation.markdown import block

    parts = []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else block(source, "python"))
        for output in cell.get("outputs", []):
            shown = output.get("data", {"text/plain": output.get("text", [])})
            if image := shown.get("image/png"):
                parts.append(f"![what the cell draws](data:image/png;base64,{''.join(image).strip()})")
            elif text := "".join(shown["text/plain"]):
                parts.append(block(text, "text"))
    return "\n\n".join(parts) + "\n"


def _listed(nav: Any, made: dict[str, str]) -> Any:
    if isinstance(nav, list):
        return [_listed(item, made) for item in nav]
    if isinstance(nav, dict):
        return {title: _listed(item, made) for title, item in nav.items()}
    inside = [path for path in made if path.startswith(nav)] if nav.endswith("/") else []
    return inside or nav


class _Loads(HTMLParser):
    """Collects what a page loads from elsewhere; links that a reader may follow are none of that."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        url = dict(attrs).get(LOADING.get(tag, "")) or ""
        if url.startswith(("http:", "https:", "//")):
            self.found.append(url)


def _loaded(html: str) -> Iterator[str]:
    parser = _Loads()
    parser.feed(html)
    yield from parser.found
