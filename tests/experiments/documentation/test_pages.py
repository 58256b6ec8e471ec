"""The pages that are made of the code say what the code says."""

from __future__ import annotations

import posixpath
import re

import pytest

from clients.corrections import CORRECTIONS
from clients.optimizers import OPTIMIZERS
from experiments.cli.main import COMMANDS
from experiments.documentation import commands, components, methods, settings
from experiments.documentation.golden import GoldenCase, proof
from experiments.documentation.rule import rule
from experiments.reference.settings import settings as all_settings
from experiments.settings import descriptions
from experiments.settings.presets import PRESETS
from strategies import STRATEGIES

CASES = [
    GoldenCase("optimizers", "sam", "optimizers/sam.json", "a", "authors' code X@1", "with | a bar", 8, "1e-11"),
    GoldenCase("methods", "fedsam", "strategies/fedsam.json", "b", "equations", "", 5, "1e-10"),
]


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    made = [*components.pages(CASES), *methods.pages(CASES)]
    assert len(dict(made)) == len(made)
    return {**dict(made), "settings.md": settings.settings_page(), "commands.md": commands.commands_page()}


def test_every_component_and_method_has_a_page_and_every_kind_a_list(pages: dict[str, str]):
    for kind, names in {"optimizers": OPTIMIZERS, "corrections": CORRECTIONS, "strategies": STRATEGIES, "methods": PRESETS}.items():
        assert {f"{kind}/{name}.md" for name in names} | {f"{kind}/index.md"} == {path for path in pages if path.startswith(f"{kind}/")}
        assert all(f"[{name}]({name}.md)" in pages[f"{kind}/index.md"] for name in names)


@pytest.mark.parametrize("kind", components.WITH_PAGES)
def test_a_page_has_equation_source_cost_settings_and_proof(pages: dict[str, str], kind: str):
    for name, described in descriptions.of(kind).items():
        text = pages[f"{kind}/{name}.md"]
        parts = dict(re.findall(r"^## ([^\n]+)\n\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL))
        assert list(parts) == ["Equations", "Cost", "Settings", "What its golden file proves", "Methods that use it"], name
        assert "**Source:**" in text, name
        assert all(f"`{setting.name}`" in parts["Settings"] for setting in described.settings), name
        assert name == "none" or "def " in parts["Equations"], name


def test_links_between_pages_lead_to_pages(pages: dict[str, str]):
    for path, text in pages.items():
        for target in re.findall(r"\]\(([^)#:]+\.md)", re.sub(r"```.*?```", "", text, flags=re.DOTALL)):
            found = posixpath.normpath(posixpath.join(posixpath.dirname(path), target))
            assert found in pages or found == "../howto/own-method.md", f"{path}: {target}"


def test_rows_of_tables_have_as_many_cells_as_their_header(pages: dict[str, str]):
    for path, text in pages.items():
        for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
            counts = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
            assert len(counts) == 1, f"{path}: {table}"


def test_the_equations_are_the_methods_and_the_functions_that_they_call():
    found = rule(OPTIMIZERS["sam"])
    assert found.legend == '`w, g1, g2, e: (..., P)`; "..." are client axes.'
    assert "e = ball(g1, self.rho, self.norm_eps)  # Eq. 2" in found.code
    assert re.findall(r"^def (\w+)", found.code, re.MULTILINE) == ["gradient", "ball", "norm"]


def test_equations_that_are_inherited_say_from_where():
    assert "# inherited from Adaptive\ndef server_step" in rule(STRATEGIES["fedadam"]).code


def test_a_proof_names_cases_files_and_whose_code_it_was():
    text = proof(CASES[:1])
    assert "1 case computed by authors' code X@1." in text
    assert r"| `a` | 8 steps | 1e-11 | with \| a bar |" in text
    assert "`tests/golden/optimizers/sam.json`" in text
    assert "No trajectory is recorded" in proof([])


def test_components_without_a_proof_of_their_own_name_the_methods_that_have_one(pages: dict[str, str]):
    assert "recorded trajectories of these methods: [fedsam](../methods/fedsam.md)" in pages["strategies/fedavg.md"]
    assert "No trajectory is recorded" in pages["corrections/dual.md"]


def test_settings_and_commands_are_complete(pages: dict[str, str]):
    assert all(f"| `{key}` |" in pages["settings.md"] for key in all_settings())
    assert re.findall(r"^## (.+)", pages["commands.md"], re.MULTILINE) == list(COMMANDS)
    assert "| `--parallel" in pages["commands.md"]
