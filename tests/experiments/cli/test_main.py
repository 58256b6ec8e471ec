from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from rich.console import Console

from experiments.callbacks.callback import Callback
from experiments.cli import console_tables, main
from experiments.cli.commands.list import Kind
from experiments.cli.output import exit_on_divergence, exit_on_failure
from experiments.reporting import figures
from experiments.reporting import report as report_module
from experiments.running.scheduler import Outcome
from experiments.settings import names, shipped
from experiments.settings.catalogue import REGISTRIES, TABLES, resolved
from experiments.settings.describing import settings_of, summary
from experiments.settings.sweep import expand
from fedsam.config import ConfigError, Experiment, parse
from fedsam.data import datasets
from fedsam.overrides import read
from fedsam.results.database import DamagedError, connect
from fedsam.results.listing import listed_runs
from fedsam.results.provenance import Provenance
from fedsam.results.rows import Row
from fedsam.results.store import Results

no_figures = pytest.mark.usefixtures("no_figures")

QUICKSTART = shipped.configs()["quickstart"]

Fedsam = Callable[..., tuple[int, str, str]]


@pytest.fixture
def fedsam(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Fedsam:
    """The command line in this process: arguments in; exit code, stdout and stderr out."""
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stopped:
            main.main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        assert isinstance(stopped.value.code, int)
        return stopped.value.code, out, err

    return call


@pytest.fixture(autouse=True)
def short_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forecasts are made from trials of a moment: nobody looks at the seconds that they tell."""
    monkeypatch.setattr("experiments.planning.forecast.PROBE_SECONDS", 0.01)


@dataclass
class Runner:
    """Stands in for `experiments.running.scheduler`: keeps what it was asked to run, and writes one round of each."""

    status: str = "finished"
    stop: bool = False
    asked: Sequence[Experiment] = ()

    def run_all(self, experiments: Sequence[Experiment], callback: Callback, **options: object) -> list[Outcome]:
        self.asked = experiments
        callback.plan(experiments)
        ids = [record(experiment, self.status) for experiment in experiments]
        if self.stop:
            raise KeyboardInterrupt
        error = None if self.status == "finished" else "client 3 of round 1 diverged"
        return [Outcome(run_id, self.status, error) for run_id in ids]


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch) -> Runner:
    """A `Runner` in the place of `experiments.running.scheduler`."""
    runner = Runner()
    monkeypatch.setitem(sys.modules, "experiments.running.scheduler", runner)
    return runner


def record(experiment: Experiment, status: str) -> str:
    """A run of one round in the experiment's results."""
    provenance = Provenance(versions={"python": "3"}, git_commit="unknown", device="cpu", command="fedsam")
    costs: dict[str, Any] = dict.fromkeys(
        ("bytes_down", "bytes_up", "client_seconds", "wall_seconds", "evaluate_seconds", "peak_rss", "forward_evaluations"), 1
    )
    with Results.open(experiment.runs_dir) as results:
        label_distribution = np.ones((experiment.data.clients, 10), dtype=int)
        run = results.start_run(
            experiment, resolved(experiment), dataset=experiment.data.dataset, label_distribution=label_distribution, provenance=provenance
        )
        measures = {"test_accuracy": 0.5, "test_loss": 1.5}
        row = Row(run=run, round=1, cohort=2, examples=9, steps=3, gradient_evaluations=9, train_loss=1.0, measures=measures, **costs)
        results.append_round(row)
        results.finish_run(run, status, None if status == "finished" else "diverged")  # type: ignore[arg-type]
    return run


@pytest.fixture
def config_file(tmp_path: Path, runs_dir: Path) -> Path:
    """A small experiment on digits, in this process."""
    path = tmp_path / "small.toml"
    path.write_text(
        f"""
        rounds = 2
        runs_dir = {str(runs_dir)!r}
        model = "lenet5"
        server.participation = 2
        compute.grid = "inline"
        [data]
        dataset = "digits"
        clients = 4
        examples = 100
        """
    )
    return path


def test_commands_that_name_list_or_check_import_nothing_heavy(tmp_path: Path) -> None:
    """One process, the lightest first, because a command finds imported what the commands before it needed."""
    runs_dir, new = str(tmp_path / "runs"), str(tmp_path / "new")
    with Results.open(tmp_path / "runs"):
        pass
    least = "torch", "ray", "flwr", "sympy", "matplotlib", "scipy", "sklearn", "pandas", "numpy", "pydantic"
    listed = (["list"], ["list", "optimizers", "sam"], ["list", "methods", "--details"], ["list", "configs"])
    code = f"""
import sys, experiments.cli.main
def check(commands, heavy):
    for arguments in commands:
        try:
            experiments.cli.main.main(arguments)
        except SystemExit as stopped:
            if stopped.code or set(heavy) & set(sys.modules):
                sys.exit(f"{{arguments}}: {{stopped.code}}, {{sorted(set(heavy) & set(sys.modules))}}")
check([["--help"], ["--version"], ["run", "--help"], ["new", {new!r}], *{listed!r}], {least!r})
check([["runs", "--runs-dir", {runs_dir!r}]], {least[:-2]!r})
check([["run", "compare", "--print-config"], ["run", "quickstart", "--print-config", "-o", "client.optimizer.lr=1"]], {least[:-2]!r})
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.strip()) == (0, "")
    assert "Usage" in done.stdout and "arXiv:2010.01412" in done.stdout and "# 4 runs" in done.stdout


def test_the_module_is_the_same_command() -> None:
    done = subprocess.run([sys.executable, "-m", "fedsam", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"fedsam {version('fedsam')}\n"


@pytest.mark.parametrize("command", list(main.COMMANDS))
def test_help_teaches_by_examples_in_80_columns(fedsam: Fedsam, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    code, out, _ = fedsam(command, "--help")
    assert code == 0
    assert max(map(len, out.splitlines())) <= 80
    assert f"fedsam {command}" in out.partition("Examples")[2]


def test_completion_is_offered(fedsam: Fedsam) -> None:
    assert "--install-completion" in fedsam("--help")[1]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-o", "client.optimiser=sam"], "client.optimiser: unknown key, did you mean 'optimizer'?"),
        (["-o", "rounds=0"], "rounds: 0 is not allowed"),
        (["-o", "client.optimizer=sam", "-o", "client.optimizer.rho=-1"], "client.optimizer.rho: -1 is not allowed"),
        (["-o", "client.optimizer=smap"], "client.optimizer: 'smap' is not known"),
        (["-o", "server.participation=5"], "server.participation: 5 is not allowed"),
        (["-o", "rounds"], "an override is KEY=VALUE"),
        (["-o", "sweep.data.clients=5"], "sweep.data.clients: 5 is not allowed"),
    ],
)
def test_wrong_settings_are_one_line_and_exit_2(fedsam: Fedsam, config_file: Path, runs_dir: Path, arguments: list[str], said: str) -> None:
    code, out, err = fedsam("run", config_file, *arguments)
    assert code == 2
    assert said in err
    assert err.count("\n") == 1 and err.startswith("fedsam: ")
    assert out == "" and not runs_dir.exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["lenet5-10x50"], "WORKLOAD: 'lenet5-10x50' is not known, did you mean 'lenet5-10x500'?"),
        (["--ways", "floor,rays"], "ways: 'rays' is not known"),
        (["noop-100000", "--ways", "flower,sam"], "ways: sam, flower is not allowed: not asked for noop-100000"),
        (["--pfl-python", "."], "pfl-python: '.' is not allowed: must be a Python interpreter"),
        (["--json", "none/bench.json"], "json: 'none/bench.json' is not allowed"),
    ],
)
def test_a_benchmark_that_cannot_be_made_is_one_line_and_exit_2(fedsam: Fedsam, arguments: list[str], said: str) -> None:
    code, out, err = fedsam("bench", *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert said in err


@pytest.mark.parametrize("grid", ["inline", "ray"])
def test_an_actor_has_no_more_cpus_than_the_machine(fedsam: Fedsam, config_file: Path, runs_dir: Path, grid: str) -> None:
    code, out, err = fedsam("run", config_file, "-q", "-o", "compute.cpus_per_actor=1000000", "-o", f"compute.grid={grid}")
    assert (code, out, err.count("\n")) == (2, "", 1) and not runs_dir.exists()
    assert "compute.cpus_per_actor: 1000000 is not allowed: this machine has " in err


def test_a_missing_file_and_wrong_usage_exit_2(fedsam: Fedsam, tmp_path: Path) -> None:
    code, _, err = fedsam("run", tmp_path / "none.toml")
    assert (code, err.count("\n")) == (2, 1)
    assert "none.toml: cannot be read" in err
    assert fedsam("run")[0] == 2
    assert fedsam("walk")[0] == 2
    assert fedsam("list", "optimisers")[0] == 2


@no_figures
def test_run_ends_with_table_and_report(fedsam: Fedsam, runner: Runner, config_file: Path, runs_dir: Path) -> None:
    code, out, err = fedsam("run", config_file, "-o", "sweep.seeds=[0, 1]")
    assert code == 0
    assert [experiment.seed for experiment in runner.asked] == [0, 1]
    assert "2 runs, 4 rounds" in err
    path = Path(out.splitlines()[-1].removeprefix("report: "))
    assert path.is_file() and path.is_relative_to(runs_dir)


@no_figures
def test_quiet_run_says_only_the_outcome(fedsam: Fedsam, runner: Runner, config_file: Path) -> None:
    code, out, err = fedsam("run", config_file, "--quiet")
    assert (code, err) == (0, "")
    assert "report: " in out


@no_figures
def test_a_failed_run_exits_1_and_says_why(fedsam: Fedsam, runner: Runner, config_file: Path) -> None:
    runner.status = "failed"
    code, out, err = fedsam("run", config_file)
    assert code == 1
    assert "client 3 of round 1 diverged" in err
    assert "report: " in out


def test_what_could_not_start_is_said_so(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit):
        exit_on_failure([Outcome("20260102-1530", "failed", "it diverged"), Outcome(None, "failed", "no data"), Outcome("r", "finished")])
    assert capsys.readouterr().err == "fedsam: run 20260102-1530 failed: it diverged\nfedsam: a run could not be started: no data\n"


@pytest.mark.parametrize("key", [*REGISTRIES, "data.dataset"])
@pytest.mark.parametrize("name", ["os:environ", "os:environ.copy", "os:environ.get"])
def test_what_is_no_component_is_named_by_type(
    fedsam: Fedsam, config_file: Path, runs_dir: Path, key: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDSAM_TEST_SECRET", "sesame")
    code, out, err = fedsam("run", config_file, "-o", f"{key}={name}")
    assert code == 2 and err.splitlines()[-1].startswith(f"fedsam: {key}")
    assert "sesame" not in out + err and not runs_dir.exists()


def test_a_default_that_is_not_plain_is_not_kept(fedsam: Fedsam, config_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDSAM_TEST_SECRET", "sesame")
    (config_file.parent / "kept.py").write_text(
        "import os\n\ndef schedule(round, rounds, *, env=os.environ, power: float = 1.0):\n    return 1.0\n"
    )
    code, out, _ = fedsam("run", config_file, "-o", "client.schedule=kept:schedule", "--print-config")
    assert code == 0 and "sesame" not in out
    assert tomllib.loads(out)["client"]["schedule"] == {"name": "kept:schedule", "power": 1.0}


def test_a_value_that_stands_there_twice_is_warned_of(fedsam: Fedsam, config_file: Path) -> None:
    code, out, err = fedsam("run", config_file, "--print-config", "-o", "sweep.seeds=[3, 3]")
    assert (code, err) == (0, "fedsam: sweep: seed = 3 stands there more than once, and is run once\n")
    assert "seed = 3\n" in out


def test_an_interrupted_run_exits_130_and_says_where_results_are(fedsam: Fedsam, runner: Runner, config_file: Path, runs_dir: Path) -> None:
    runner.stop = True
    code, _, err = fedsam("run", config_file)
    assert code == 130
    assert str(runs_dir / "fedsam.db") in err


@no_figures
def test_options_are_settings(fedsam: Fedsam, runner: Runner, config_file: Path, tmp_path: Path) -> None:
    options = ["--data-root", tmp_path / "data", "--runs-dir", tmp_path / "other", "--ray-address", "auto"]
    assert fedsam("run", config_file, *options)[0] == 0
    (asked,) = runner.asked
    assert (asked.data.root, asked.runs_dir, asked.compute.ray_address) == (tmp_path / "data", tmp_path / "other", "auto")


@pytest.mark.parametrize(
    ("override", "clients", "optimizers"),
    [
        ("data.clients=7", [7, 7], ["sgd", "sam"]),
        ("client.optimizer.name=sam", [10, 30], ["sam", "sam"]),
        ("client.optimizer=sam", [10, 30], ["sam", "sam"]),
        ("sweep.seeds=[0]", [10, 30, 10, 30], ["sgd", "sgd", "sam", "sam"]),
    ],
)
def test_a_key_typed_is_swept_no_more(
    fedsam: Fedsam,
    runner: Runner,
    runs_dir: Path,
    override: str,
    clients: list[int],
    optimizers: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("experiments.cli.commands.run.report_outcomes", lambda *_: None)
    assert fedsam("run", QUICKSTART, "-o", override, "--runs-dir", runs_dir)[0] == 0
    assert [experiment.data.clients for experiment in runner.asked] == clients
    assert [experiment.client.optimizer.name for experiment in runner.asked] == optimizers


def test_print_config_can_be_run_again(fedsam: Fedsam, config_file: Path, runs_dir: Path, tmp_path: Path) -> None:
    code, out, _ = fedsam("run", config_file, "--print-config", "-o", "client.optimizer=sam")
    assert code == 0 and not runs_dir.exists()
    assert tomllib.loads(out)["client"]["optimizer"]["rho"] == 0.05
    again = tmp_path / "again.toml"
    again.write_text(out)
    assert fedsam("run", again, "--print-config")[1] == out
    assert resolved(parse(read(again))) == tomllib.loads(out)


def test_print_config_prints_nothing_when_one_run_is_wrong(fedsam: Fedsam, config_file: Path) -> None:
    code, out, err = fedsam("run", config_file, "--print-config", "-o", "sweep.server.participation=[2, 5]")
    assert (code, out) == (2, "")
    assert "server.participation: 5 is not allowed" in err


@pytest.mark.parametrize("name", ["quickstart", "methods"])
def test_print_config_of_a_sweep_can_be_run_again(fedsam: Fedsam, name: str, tmp_path: Path) -> None:
    code, out, err = fedsam("run", name, "--print-config")
    assert (code, err) == (0, "")
    mine = tmp_path / "mine.toml"
    mine.write_text(out)
    runs = [resolved(experiment) for experiment in expand(read(shipped.configs()[name]))]
    assert [resolved(experiment) for experiment in expand(read(mine))] == runs
    assert out.startswith(f"# {len(runs)} runs\n")


def test_print_config_of_runs_that_no_file_can_say_exits_2(fedsam: Fedsam, config_file: Path) -> None:
    overrides = "sweep.overrides=[{when = {seed = 1}, set = {budget = 10}}]"
    code, out, err = fedsam("run", config_file, "--print-config", "-o", "sweep.seeds=[0, 1]", "-o", overrides)
    assert (code, out) == (2, "")
    assert "budget: only some of the 2 runs set it" in err


def test_a_config_of_ours_is_known_by_its_name(fedsam: Fedsam, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "quickstart").mkdir()
    ours = fedsam("run", "quickstart", "--print-config")
    assert ours[0] == 0
    assert fedsam("run", "quickstart.toml", "--print-config") == ours
    assert fedsam("run", QUICKSTART, "--print-config") == ours
    (tmp_path / "quickstart.toml").write_text("rounds = 77\n")
    assert "rounds = 77\n" in fedsam("run", "quickstart.toml", "--print-config")[1]
    assert fedsam("run", "quickstart", "--print-config") == ours


@pytest.mark.parametrize("command", ["run", "compare", "partition", "run-config"])
def test_an_unknown_config_exits_2_and_names_ours(fedsam: Fedsam, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = fedsam(command, "quikstart.toml")
    assert (code, out) == (2, "")
    assert "no file 'quikstart.toml' is here, did you mean 'quickstart'?" in err
    assert "compare, methods, optimizers, quickstart" in err
    assert not list(tmp_path.iterdir())


def test_list_shows_the_configs(fedsam: Fedsam) -> None:
    code, out, _ = fedsam("list", "configs")
    assert code == 0
    assert all(name in out for name in shipped.configs())
    assert "do sharpness-aware clients help, and does that change with the number of clients?" in " ".join(out.split())


def test_completion_knows_the_configs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "quiet.toml").touch()
    environment = os.environ | {"_FEDSAM_COMPLETE": "complete_bash", "COMP_WORDS": "fedsam run qui", "COMP_CWORD": "2"}
    done = subprocess.run([sys.executable, "-m", "fedsam"], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["quickstart", "quiet.toml"]


def test_list_shows_year_source_and_backing_of_methods(fedsam: Fedsam) -> None:
    code, out, _ = fedsam("list", "methods")
    assert code == 0
    words = " ".join(out.split())
    assert "2025" in words and "arXiv:2511.22080" in words
    assert all(word in words for word in ("authors", "equations", "reconstruction"))
    details = fedsam("list", "methods", "fedswa")[1]
    assert "Golden trajectory: authors." in " ".join(details.replace("│", " ").split())


@pytest.mark.parametrize("kind", list(TABLES))
def test_list_shows_every_name(fedsam: Fedsam, kind: str) -> None:
    for arguments in ([], [kind]):
        code, out, _ = fedsam("list", *arguments)
        assert code == 0
        assert all(name in out for name in TABLES[kind] if name != "module:factory")


@pytest.mark.parametrize("kind", names.KINDS)
def test_names_and_meanings_are_those_of_the_registries(kind: str) -> None:
    registry = {name: summary(entry) for name, entry in TABLES[kind].items() if name != "module:factory"}
    assert names.meanings(kind) == registry
    assert names.names(kind) == list(registry)
    assert names.KINDS[kind].setting in REGISTRIES or kind == "datasets"


def test_list_shows_details_of_what_is_named(fedsam: Fedsam, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FEDSAM_TEST_SECRET", "sesame")
    (tmp_path / "listed.py").write_text(
        "import os\n\ndef net(image, classes, *, width: int = 7, env=os.environ, of: os.PathLike = None):\n    'A net of mine.'\n"
    )
    code, out, err = fedsam("list", "optimizers", "sam", "asam")
    assert (code, err) == (0, "")
    assert "arXiv:2010.01412" in out and "asam" in out and "looksam" not in out
    code, out, err = fedsam("list", "models", "listed:net")
    assert (code, err) == (0, "")
    assert "A net of mine." in out and "width" in out and "sesame" not in out
    assert "a value of type _Environ" in out
    for arguments, message in (
        (["optimizers", "smap"], "optimizers: 'smap' is not known, did you mean 'sampa'"),
        (["optimizers", "fedprox"], "optimizers: 'fedprox' is not known: it is a method"),
        (["methods", "fedpro"], "methods: 'fedpro' is not known, did you mean 'fedprox'"),
        (["configs", "quickstart"], "'quickstart' is not allowed: only the components of a kind have details"),
    ):
        code, _, err = fedsam("list", *arguments)
        assert code == 2 and message in err


@pytest.mark.parametrize("kind", list(TABLES))
def test_list_shows_every_setting(fedsam: Fedsam, kind: str) -> None:
    code, out, _ = fedsam("list", kind, "--details")
    assert code == 0
    for name, entry in TABLES[kind].items():
        assert name in out
        if callable(entry):
            assert all(setting.name in out for setting in settings_of(entry))


def test_list_shows_limits_and_sources(fedsam: Fedsam) -> None:
    assert set(Kind) == {*TABLES, "configs"}
    rho = next(setting for setting in settings_of(TABLES["optimizers"]["sam"]) if setting.name == "rho")
    assert (rho.default, rho.allowed) == ("0.05", ">= 0")
    assert rho.meaning.startswith("Perturbation radius")


def test_runs_lists_what_there_is(fedsam: Fedsam, config_file: Path, runs_dir: Path) -> None:
    run = record(parse(read(config_file)), "finished")
    code, out, _ = fedsam("runs", "--runs-dir", runs_dir)
    assert code == 0
    assert run in out and "finished" in out and "1/2" in out and "50.00" in out


def test_runs_at_80_columns_has_ids_in_one_piece_and_what_they_came_to(config_file: Path, runs_dir: Path) -> None:
    names = ("a_long_name_of_a_method_that_needs_many_columns", "sam")
    ids = [record(parse(read(config_file, [f"name={name}", "rounds=100"])), "interrupted") for name in names]
    with Results.open(runs_dir) as results:
        results.set_tags(ids[0], ["paper"])
        table = console_tables.runs(listed_runs(results))
    console = Console(width=80, file=io.StringIO(), force_terminal=True, color_system=None)
    console.print(table)
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert max(map(len, lines)) <= 80
    for run in ids:
        assert any(run in line and "1/100" in line and "50.00" in line and "interrupted" in line for line in lines)


def test_runs_are_chosen_sorted_tagged_and_deleted(fedsam: Fedsam, config_file: Path, runs_dir: Path) -> None:
    first, second = (record(parse(read(config_file, [f"seed={seed}"])), "finished") for seed in (0, 1))
    here = ("--runs-dir", runs_dir)
    assert first not in fedsam("runs", *here, "--where", "seed>0")[1]
    out = fedsam("runs", *here, "--sort", "-seed")[1]
    assert out.index(second) < out.index(first)
    assert "final, paper" in fedsam("runs", *here, "--tag", f"{first}=paper,final", "--where", "tag=paper")[1]
    code, out, _ = fedsam("runs", *here, "--delete", second)
    assert (code, f"deleted: {second}" in out.splitlines()) == (0, True)
    assert second not in fedsam("runs", *here)[1]
    for wrong in (["--where", "sede=1"], ["--sort", "sede"], ["--tag", first], ["--delete", "1999"]):
        code, _, err = fedsam("runs", *here, *wrong)
        assert (code, err.count("\n")) == (2, 1)


@pytest.fixture
def read_only(config_file: Path, runs_dir: Path) -> Iterator[Path]:
    """A folder with a finished run, to be read and not written."""
    record(parse(read(config_file)), "finished")
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "runs"
        shutil.copytree(runs_dir, place)
        (place / "fedsam.db").chmod(0o444)
        place.chmod(0o555)
        Path(folder).chmod(0o755)
        yield place
        place.chmod(0o755)


@contextmanager
def unprivileged() -> Iterator[None]:
    """As a user who may not write everywhere, which root may."""
    user = os.geteuid()
    try:
        if user == 0:
            os.seteuid(65534)
        yield
    finally:
        os.seteuid(user)


@no_figures
def test_results_that_one_may_only_read_are_read(fedsam: Fedsam, runs_dir: Path, read_only: Path) -> None:
    with tempfile.TemporaryDirectory() as out:
        Path(out).chmod(0o777)
        reading = (["runs"], ["report", "--out", f"{out}/report"], ["export", "--out", f"{out}/tables"])
        for arguments in reading:  # what is imported on the way must be there before, since its files may not be readable to all
            assert fedsam(*arguments, "--runs-dir", runs_dir)[0] == 0
        shutil.rmtree(f"{out}/report")
        shutil.rmtree(f"{out}/tables")
        with unprivileged():
            for arguments in reading:
                code, _, err = fedsam(*arguments, "--runs-dir", read_only)
                assert (code, err) == (0, "")
        assert (Path(out) / "report" / "report.html").is_file() and (Path(out) / "tables" / "rounds.parquet").is_file()
    with unprivileged():
        for arguments in (["report"], ["export"], ["runs", "--delete", "2"], ["runs", "--tag", "2=x"]):
            code, said, err = fedsam(*arguments, "--runs-dir", read_only)
            assert (code, said, err.count("\n")) == (2, "", 1)
            assert "must be a folder that can be written" in err
        with pytest.raises(ConfigError, match="must be a folder that can be written"):
            Results.open(read_only)
    assert [path.name for path in read_only.iterdir()] == ["fedsam.db"]


def test_rounds_that_are_only_in_the_log_are_not_left_out_silently(fedsam: Fedsam, runs_dir: Path, read_only: Path) -> None:
    fedsam("runs", "--runs-dir", runs_dir)
    read_only.chmod(0o755)
    (read_only / "fedsam.db-wal").write_bytes(b"x" * 100)  # of a writer that was killed; without its index SQLite would have to write
    (read_only / "fedsam.db-wal").chmod(0o444)
    read_only.chmod(0o555)
    with unprivileged():
        code, _, err = fedsam("runs", "--runs-dir", read_only)
    assert code == 2 and "its newest rounds are in fedsam.db-wal; copy it to where you may write" in err


@pytest.mark.parametrize("place", ["a file", "below a file", "/dev/null"])
def test_what_cannot_be_written_to_is_a_sentence(fedsam: Fedsam, config_file: Path, runs_dir: Path, tmp_path: Path, place: str) -> None:
    record(parse(read(config_file)), "finished")
    (tmp_path / "file").touch()
    folder = {"a file": tmp_path / "file", "below a file": tmp_path / "file" / "x"}.get(place, place)
    for command in ("report", "export"):
        code, out, err = fedsam(command, "--runs-dir", runs_dir, "--out", folder)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert "out: " in err and "must be a folder that can be written" in err


@pytest.mark.parametrize("place", ["folder", "below a file", "missing"])
def test_a_plot_that_cannot_be_written_is_a_sentence(fedsam: Fedsam, config_file: Path, tmp_path: Path, place: str) -> None:
    file = {"folder": tmp_path, "below a file": config_file / "p.png", "missing": tmp_path / "none" / "p.png"}[place]
    code, out, err = fedsam("partition", config_file, "--plot", file)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "plot: " in err and "must be a file that can be written" in err


def test_a_report_that_fails_leaves_the_exit_code_of_the_runs(
    fedsam: Fedsam, runner: Runner, config_file: Path, runs_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ValueError("no such font")

    monkeypatch.setattr(figures, "accuracy_curves", fail)
    code, out, err = fedsam("run", config_file)
    assert code == 0
    assert (
        out.splitlines()[-1].startswith("report: ")
        and "report: figure accuracy-rounds could not be drawn (ValueError: no such font)" in err
    )
    assert fedsam("report", "--runs-dir", runs_dir)[0] == 1
    monkeypatch.setattr(report_module, "write_report", fail)
    code, _, err = fedsam("run", config_file, "--quiet")
    assert code == 0 and "report: failed (ValueError: no such font); the runs are kept: " in err


@no_figures
def test_a_report_of_all_runs_compares_those_of_one_length(fedsam: Fedsam, config_file: Path, runs_dir: Path, tmp_path: Path) -> None:
    runs = [record(parse(read(config_file, [f"rounds={rounds}"])), "finished") for rounds in (2, 40)]
    code, out, _ = fedsam("report", "--runs-dir", runs_dir, "--out", tmp_path / "out")
    assert code == 0
    assert "digits, 100 examples, 2 rounds: 1 run\n" in out and "digits, 100 examples, 40 rounds: 1 run\n" in out
    assert [line for line in out.splitlines() if line.startswith("report: ")] == [
        f"report: {tmp_path / 'out' / run / 'report.html'}" for run in runs
    ]
    assert fedsam("report", *runs, "--runs-dir", runs_dir)[1].count("report: ") == 1


@no_figures
def test_text_of_others_reaches_the_terminal_as_text(fedsam: Fedsam, config_file: Path, runs_dir: Path) -> None:
    hostile = ":bug: [red]x[/red] \x1b[31mred"
    record(parse(read(config_file)).model_copy(update={"name": hostile}), "finished")
    for arguments in (["runs", "--runs-dir", runs_dir], ["report", "--runs-dir", runs_dir], ["report", hostile, "--runs-dir", runs_dir]):
        shown = "".join(fedsam(*arguments)[1:])
        assert "\x1b" not in shown and ":bug: [red]x[/red]" in " ".join(shown.split())


def test_commands_on_a_folder_without_results_exit_2(fedsam: Fedsam, tmp_path: Path) -> None:
    for command in ("runs", "report", "export"):
        code, _, err = fedsam(command, "--runs-dir", tmp_path)
        assert (code, err.count("\n")) == (2, 1)
        assert str(tmp_path) in err


@no_figures
def test_report_takes_the_beginning_of_an_id(fedsam: Fedsam, config_file: Path, runs_dir: Path, tmp_path: Path) -> None:
    run = record(parse(read(config_file)), "finished")
    code, out, _ = fedsam("report", run[:10], "--runs-dir", runs_dir, "--out", tmp_path / "mine")
    assert code == 0
    assert out.splitlines()[-1] == f"report: {tmp_path / 'mine' / 'report.html'}"
    assert fedsam("report", "1999", "--runs-dir", runs_dir)[0] == 2


def test_export_writes_the_tables_of_a_run(fedsam: Fedsam, config_file: Path, runs_dir: Path, tmp_path: Path) -> None:
    run = record(parse(read(config_file)), "finished")
    code, out, _ = fedsam("export", run[:10], "--runs-dir", runs_dir, "--format", "csv", "--out", tmp_path / "tables")
    assert code == 0
    assert f"{tmp_path / 'tables' / 'rounds.csv'}: 1 rows" in out.splitlines()
    assert fedsam("export", "--runs-dir", runs_dir)[0] == 0
    assert (runs_dir / "export" / "measures.parquet").is_file()


@no_figures
def test_report_takes_a_baseline_and_a_target(fedsam: Fedsam, config_file: Path, runs_dir: Path) -> None:
    for name in ("first", "second"):
        record(parse(read(config_file, [f"name={name}"])), "finished")
    code, out, _ = fedsam("report", "--runs-dir", runs_dir, "--baseline", "second", "--target", 0.1)
    assert code == 0
    assert "evals to" in out and "10 %" in out and "above second" in " ".join(out.split())
    code, _, err = fedsam("report", "--runs-dir", runs_dir, "--baseline", "third")
    assert (code, err.strip()) == (2, "fedsam: baseline: 'third' is not known; allowed: first; second")
    assert fedsam("report", "--runs-dir", runs_dir, "--target", 60)[0] == 2


def test_partition_shows_and_draws(fedsam: Fedsam, config_file: Path, tmp_path: Path) -> None:
    plot = tmp_path / "partition.png"
    code, out, _ = fedsam("partition", config_file, "-o", "data.partition=iid", "--plot", plot)
    assert code == 0
    assert "digits, 4 clients, iid, seed 0" in out
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_partition_of_a_sweep_draws_each(fedsam: Fedsam, config_file: Path, tmp_path: Path) -> None:
    sweep = ["-o", "sweep.data.clients=[4, 5]", "-o", 'sweep.client.optimizer=["sgd", "sam"]']
    assert fedsam("partition", config_file, *sweep, "--plot", tmp_path / "p.png")[0] == 0
    assert sorted(path.name for path in tmp_path.glob("*.png")) == ["p-1.png", "p-2.png"]


def test_partition_without_data_exits_1(fedsam: Fedsam, config_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: object) -> None:
        raise datasets.DataError("test_batch is missing")

    monkeypatch.setattr(datasets, "load", load)
    code, out, err = fedsam("partition", config_file)
    assert (code, out, err) == (1, "", "fedsam: test_batch is missing\n")


@no_figures
def test_a_run_with_tensorboard_writes_its_events(fedsam: Fedsam, config_file: Path, runs_dir: Path) -> None:
    code, _, err = fedsam("run", config_file, "--tensorboard", "--quiet", "-o", "compute.grid=inline")
    assert (code, err) == (0, "")
    assert len(list(runs_dir.glob("*/tensorboard/events.out.tfevents.*"))) == 1


def test_a_real_run(fedsam: Fedsam, config_file: Path, runs_dir: Path) -> None:
    code, out, err = fedsam("run", config_file, "-o", "client.optimizer=sam")
    assert code == 0, err
    assert "round 2/2 cohort 2 acc " in err
    assert Path(out.splitlines()[-1].removeprefix("report: ")).is_file()
    with Results.open(runs_dir) as results:
        (run,) = results.runs()
        assert (run.status, len(results.rounds(run.id))) == ("finished", 2)


TWO = ["-o", 'sweep.client.optimizer=["sgd", "sam"]', "-o", "measure.flatness.measures=['average']", "-o", "measure.flatness.examples=40"]


def test_a_dry_run_shows_the_plan_and_keeps_nothing(fedsam: Fedsam, config_file: Path, runs_dir: Path) -> None:
    code, out, err = fedsam("compare", config_file, "--dry-run", "-o", "sweep.data.clients=[4, 5]", "-o", "sweep.seeds=[0, 1]", *TWO)
    assert (code, err.strip()) == (0, "")
    rows = [line.split() for line in out.splitlines() if line.startswith((" sgd", " sam"))]
    assert [row[:4] for row in rows] == [[name, clients, "2", "2"] for clients in ("4", "5") for name in ("sgd", "sam")]
    evaluations = [int(row[4]) for row in rows]
    assert evaluations[1::2] == [2 * number for number in evaluations[::2]]
    assert "8 runs, 0 of them finished before" in out
    assert "about " in out.splitlines()[-1]
    assert not runs_dir.exists()


@no_figures
def test_compare_repeats_no_finished_run(fedsam: Fedsam, config_file: Path, runs_dir: Path) -> None:
    code, out, err = fedsam("compare", config_file, *TWO)
    assert code == 0, err
    assert err.count("finished after") == 2
    with Results.open(runs_dir) as results:
        ids = [run.id for run in results.runs()]
    again, out_again, err_again = fedsam("compare", config_file, *TWO, "-o", "sweep.seeds=[0, 1]")
    assert again == 0
    assert "4 runs, 2 of them finished before" in out_again
    assert err_again.count("finished after") == 2
    with Results.open(runs_dir) as results:
        assert [run.id for run in results.runs()][:2] == ids
    last = fedsam("compare", config_file, *TWO, "--quiet")
    assert (last[0], last[2]) == (0, "")
    assert last[1].splitlines()[-1] == out.splitlines()[-1]
    assert "finished before" not in last[1]


@no_figures
def test_a_run_that_was_killed_on_another_machine_exits_3_until_it_is_forgotten_or_continued(
    fedsam: Fedsam, config_file: Path, runs_dir: Path
) -> None:
    compare = ("compare", config_file, "--quiet", "-o", "rounds=1", "-o", "measure.union=false")

    def statuses() -> list[tuple[str, str]]:
        with Results.open(runs_dir) as results:
            return [(run.id, run.status) for run in results.runs()]

    def kill_elsewhere() -> str:
        with closing(connect(runs_dir / "fedsam.db")) as connection:
            connection.execute("UPDATE runs SET status = 'running', host = 'gone', finished = NULL")
        ((run, status),) = statuses()
        assert status == "running"
        return run

    assert fedsam(*compare)[0] == 0
    first = kill_elsewhere()
    code, _, err = fedsam(*compare)
    assert (code, statuses()) == (3, [(first, "running")])
    assert f"fedsam: run {first} is at work on gone: start this again later, or with --restart" in err
    code, out, _ = fedsam("runs", "--runs-dir", runs_dir, "--forget", first)
    assert code == 0
    assert "interrupted" in out
    assert fedsam(*compare)[0] == 0
    second = kill_elsewhere()
    assert fedsam(*compare, "--restart")[0] == 0
    ((third, status),) = statuses()
    assert first == second == third
    assert status == "finished"


@no_figures
def test_compare_goes_on_after_a_run_that_diverged_does_not_make_it_again_and_exits_4(fedsam: Fedsam, config_file: Path) -> None:
    lrs = '[{name = "sgd", lr = 1e30}, {name = "sgd", lr = 0.1}]'
    code, out, err = fedsam("compare", config_file, "-o", f"sweep.client.optimizer={lrs}")
    assert code == 4
    assert err.count("diverged after") == err.count("finished after") == 1
    assert "diverged in round 1" in out and "report: " in out
    code, out, err = fedsam("compare", config_file, "-o", f"sweep.client.optimizer={lrs}")
    assert (code, " after" in err) == (4, False)
    assert "2 runs, 1 of them finished before, 1 diverged before" in out
    assert "diverged: round 1 (seed 0) diverged: test loss nan; the learning rate of the clients was 1e+30" in err


@no_figures
def test_a_run_that_diverges_exits_4_and_is_listed_with_its_round(fedsam: Fedsam, config_file: Path, runs_dir: Path) -> None:
    code, out, err = fedsam("run", config_file, "-o", "server.strategy={name='fedavg', lr=1e300}")
    assert code == 4
    assert "diverged: round 1 (seed 0) diverged: " in err
    assert "diverged in round 1" in out
    _, out, _ = fedsam("runs", "--runs-dir", runs_dir)
    assert "diverged" in out and "in round 1" in out and "nan" in out
    code, out, _ = fedsam("runs", "--runs-dir", runs_dir, "--where", "status=diverged")
    assert (code, "in round 1" in out) == (0, True)


@no_figures
def test_a_report_that_cannot_be_made_does_not_hide_how_the_runs_ended(
    fedsam: Fedsam, runner: Runner, config_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("experiments.cli.output.report_runs", _damaged)
    runner.status = "diverged"
    code, _, err = fedsam("run", config_file)
    assert code == 4
    assert "fedsam: report: runs_dir: fedsam.db is damaged: malformed" in err and "client 3 of round 1 diverged" in err


def _damaged(*_: object, **__: object) -> None:
    raise DamagedError(Path("fedsam.db"), "malformed")


def test_a_failure_weighs_more_than_divergence(capsys: pytest.CaptureFixture[str]) -> None:
    outcomes = [Outcome("a", "diverged", "round 3"), Outcome("b", "failed", "no memory")]
    with pytest.raises(typer.Exit) as failed:
        exit_on_failure(outcomes)
    with pytest.raises(typer.Exit) as diverged:
        exit_on_divergence(outcomes)
    assert (failed.value.exit_code, diverged.value.exit_code) == (1, 4)
    assert capsys.readouterr().err == "fedsam: run b failed: no memory\nfedsam: run a diverged: round 3\n"


def test_more_at_once_than_there_are_actors_exits_2(fedsam: Fedsam, config_file: Path) -> None:
    code, _, err = fedsam("compare", config_file, "--parallel", 2, "-o", "compute.grid=ray", "-o", "compute.actors=1")
    assert (code, err) == (2, "fedsam: parallel: 2 is not allowed: compute.actors is 1, and each run needs one\n")


def test_what_cannot_be_checked_is_told(fedsam: Fedsam) -> None:
    code, _, err = fedsam("check", "clients.optimizers.sam:Nothing")
    assert code == 2 and "clients.optimizers.sam:Nothing" in err


def test_explain_says_what_a_setting_a_table_and_a_hyperparameter_are(fedsam: Fedsam) -> None:
    code, out, _ = fedsam("explain", "client.epochs")
    assert (code, "Local epochs per round." in out, "whole number >= 1" in out) == (0, True, True)
    code, out, _ = fedsam("explain", "client.optimizer.rho")
    assert code == 0
    assert all(word in out for word in ("sam, fsam", "asam", "0.5", "Perturbation radius"))
    code, out, _ = fedsam("explain", "client.optimizer")
    assert (code, "Descend with the gradient taken at the worst nearby point." in out) == (0, True)
    code, out, _ = fedsam("explain", "measure")
    assert (code, "measure.patience" in out, "measure.flatness.rho" in out) == (0, True, True)


def test_explain_lists_all_settings(fedsam: Fedsam) -> None:
    code, out, _ = fedsam("explain")
    assert code == 0
    assert all(key in out for key in ("data.clients", "server.participation", "sweep.seeds"))


def test_explain_of_an_unknown_key_proposes_the_nearest(fedsam: Fedsam) -> None:
    code, _, err = fedsam("explain", "server.particpation")
    assert (code, "did you mean server.participation" in err) == (2, True)
