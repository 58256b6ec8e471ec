"""The code blocks of the pages run: settings are checked, Python is executed, commands are run in this process, on a small quickstart."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shlex
import sqlite3
import sys
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from unittest import SkipTest

import click
import pytest
import typer
from sybil import Document, Example
from sybil.evaluators.python import PythonEvaluator
from sybil.parsers.markdown import CodeBlockParser, SkipParser

from experiments.cli import main
from experiments.settings import shipped
from experiments.settings.catalogue import check
from experiments.tuning.settings import expand_tuned
from fedsam import plugins
from fedsam.results.store import Results

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
LANGUAGES = ("bash", "toml", "python")
DATA = ("text", "diff")  # blocks that are no code
# Every config that comes with fedsam is this one, so that commands take moments.
SMALL = """
rounds = 1
model = "mlp"
[data]
dataset = "digits"
clients = 4
examples = 200
[client]
batch_size = 20
[server]
participation = 0.5
[measure]
union = false
[compute]
grid = "inline"
[sweep]
"client.optimizer.name" = ["sgd", "sam"]
"""


def blocks(path: Path) -> Iterator[str]:
    """The language of each block of code of a page."""
    yield from re.findall(r"^ *```(\S*)\n.*?^ *```$", path.read_text(), re.MULTILINE | re.DOTALL)


@dataclass
class Shell:
    """Runs the commands of a page in the working directory."""

    environment: pytest.MonkeyPatch

    def __call__(self, example: Example) -> None:
        for line in example.parsed.replace("\\\n", " ").splitlines():
            if words := shlex.split(line, comments=True):
                self.run(*words)

    @staticmethod
    def parse(example: Example) -> None:
        """Look whether the commands of ours in a block that is not run take their arguments. Raises `click.UsageError` where not."""
        group = typer.main.get_command(main.app)
        assert isinstance(group, click.Group)
        for line in example.parsed.replace("\\\n", " ").splitlines():
            command, *words = [*shlex.split(line, comments=True), ""]
            if command == "fedsam":
                group.commands[words[0]].make_context(words[0], _split(words[1:-1])[0])

    def run(self, command: str, *words: str) -> None:
        """Run a command. Fails the test where it does, or is none of those that can be run here."""
        arguments, target = _split(words)
        if command == "fedsam":
            out = self.fedsam(*arguments)
            if target:
                Path(target).write_text(out)
        elif command == "cd":
            self.environment.chdir(arguments[0])
        elif command == "export":
            self.environment.setenv(*arguments[0].split("=", 1))
        elif command == "sqlite3":
            with contextlib.closing(sqlite3.connect(arguments[0])) as connection:
                assert connection.execute(arguments[1]).fetchall()
        else:
            pytest.fail(f'{command} is no command that runs here: put <!--- skip: next "reason" --> before the block')

    def fedsam(self, *arguments: str) -> str:
        """The output of a command of ours, which must succeed; RUN stands for the latest run."""
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as stopped:
            main.main([self.latest() + word[3:] if re.match("RUN(=|$)", word) else word for word in arguments])
        assert stopped.value.code == 0, f"fedsam {' '.join(arguments)}: exit code {stopped.value.code}\n{err.getvalue()}"
        return out.getvalue()

    @staticmethod
    def latest() -> str:
        """The id of the latest run."""
        with Results.open("runs", create=False) as results:
            return results.runs()[-1].id


def _split(words: Sequence[str]) -> tuple[list[str], str]:
    """The words of a command before `>`, and the file after it; empty where there is none."""
    at = words.index(">") if ">" in words else len(words)
    return list(words[:at]), "".join(words[at + 1 :])


def settings(example: Example) -> None:
    """Check settings; a block that begins with the name of a file is written to it."""
    text = str(example.parsed)
    if name := re.match(r"# (\S+\.toml)\n", text):
        Path(name[1]).write_text(text)
    plugins.search(Path())
    experiments, _ = expand_tuned(tomllib.loads(text))
    for experiment in experiments:
        check(experiment)


def python(example: Example) -> None:
    """Execute Python; a block that begins with the name of a file is written to it."""
    text = str(example.parsed)
    if name := re.match(r"# (\S+\.py)\n", text):
        compile(text, name[1], "exec")
        Path(name[1]).write_text(text)
    else:
        PythonEvaluator()(example)


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shell]:
    """A folder of its own for a page, with small configs, whose modules are forgotten afterwards."""
    small = tmp_path / "small.toml"
    small.write_text(SMALL)
    names = list(shipped.configs())
    monkeypatch.setattr(shipped, "configs", lambda: dict.fromkeys(names, small))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr("experiments.planning.forecast.PROBE_SECONDS", 0.01)
    before, path = set(sys.modules), list(sys.path)
    yield Shell(monkeypatch)
    sys.path[:] = path
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.mark.usefixtures("no_figures")
@pytest.mark.parametrize("path", [path for path in PAGES if set(blocks(path)) & {*LANGUAGES}], ids=lambda path: path.name)
def test_the_code_blocks_of_a_page_run(path: Path, shell: Shell, capsys: pytest.CaptureFixture[str]) -> None:
    parsers = [CodeBlockParser("bash", shell), CodeBlockParser("toml", settings), CodeBlockParser("python", python), SkipParser()]
    for example in Document.parse(str(path), *parsers):
        try:
            example.evaluate()
        except SkipTest:
            if example.region.evaluator is shell:
                shell.parse(example)
        except BaseException as error:
            error.add_note(f"{path}, line {example.line}")
            raise


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_block_of_a_page_says_what_it_is(path: Path) -> None:
    assert set(blocks(path)) <= {*LANGUAGES, *DATA}


def test_the_cells_of_the_tutorial_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_figures: None) -> None:
    monkeypatch.chdir(tmp_path)
    notebook = ModuleType("__main__")  # where a notebook's classes are
    monkeypatch.setitem(sys.modules, "__main__", notebook)
    for cell in json.loads((ROOT / "docs" / "tutorial.ipynb").read_text())["cells"]:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), cell["id"], "exec"), vars(notebook))
    assert vars(notebook)["mine"].accuracy == pytest.approx(vars(notebook)["result"].accuracy, abs=0.02)
    assert len(vars(notebook)["rows"]) == 15 * 7
