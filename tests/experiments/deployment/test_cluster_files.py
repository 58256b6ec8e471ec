"""The files for clusters: they parse, name the versions we pin, and call only commands and options that there are."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from jsonschema import validate

from experiments.cli import main
from experiments.cli.commands.cluster import FOLDER
from fedsam.results.store import Results
from tests.support.processes import alive, descendants

ROOT = Path(__file__).resolve().parents[3]
LAUNCHERS = ("aws", "gcp", "onprem")
RAY = Path(str(find_spec("ray").origin)).parent  # importing it here would fix how this process authenticates itself
FILES = sorted(path.name for path in FOLDER.iterdir() if path.suffix != ".dockerignore")


def text(name: str) -> str:
    return (FOLDER / name).read_text()


@pytest.mark.parametrize("name", LAUNCHERS)
def test_launcher_files_fit_rays_schema_and_start_ray_with_a_token(name: str) -> None:
    settings = yaml.safe_load(text(f"{name}.yaml"))
    validate(settings, json.loads((RAY / "autoscaler" / "ray-schema.json").read_text()))
    assert settings["provider"]["type"] == {"onprem": "local"}.get(name, name)
    assert settings["file_mounts"]["/home/ubuntu/.ray/auth_token"] == "~/.ray/auth_token"
    head, worker = settings["head_start_ray_commands"][-1], settings["worker_start_ray_commands"][-1]
    assert "RAY_AUTH_MODE=token" in head and "--head" in head and "--dashboard-host=127.0.0.1" in head
    assert "RAY_AUTH_MODE=token" in worker and "--address=$RAY_HEAD_IP:6379" in worker
    assert "RAY_AUTH_MODE=token" in " ".join(settings["setup_commands"])


def test_the_kubernetes_job_runs_with_a_token() -> None:
    job = yaml.safe_load(text("rayjob.yaml"))
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    cluster = job["spec"]["rayClusterSpec"]
    assert cluster["rayVersion"] == version("ray")
    assert cluster["authOptions"] == {"mode": "token"}
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    images = {container["image"] for group in groups for container in group["template"]["spec"]["containers"]}
    assert images == {f"fedsam:{version('fedsam')}"}
    assert f"-t fedsam:{version('fedsam')}" in text("Dockerfile")


def test_the_citation_is_of_this_version() -> None:
    assert yaml.safe_load((FOLDER.parents[1] / "CITATION.cff").read_text())["version"] == version("fedsam")


def test_every_file_names_the_pinned_ray() -> None:
    named = {version for name in FILES for version in re.findall(r"ray\[default\]==([\d.]+)", text(name))}
    assert named == {version("ray")}


def test_the_slurm_script_is_bash() -> None:
    subprocess.run(["bash", "-n", FOLDER / "slurm.sh"], check=True)


def test_embedded_commands_and_options_exist(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    pages = [text(name) for name in FILES] + [(ROOT / "SECURITY.md").read_text()]
    called = [
        call for page in pages for call in re.findall(r"(?:^ {4}|&& |entrypoint: |`)fedsam ([a-z][a-z-]*)([^\n`|#]*)", page, re.MULTILINE)
    ]
    assert {"run", "cluster", "flower"} <= {command for command, _ in called}
    for command, options in called:
        with pytest.raises(SystemExit) as stopped:
            main.main([command, "--help"])
        shown = capsys.readouterr().out
        assert stopped.value.code == 0, command
        assert all(option in shown for option in re.findall(r"(?<=\s)--?[a-z][a-z-]*", options)), f"fedsam {command}{options}"


def test_list_and_show(capsys: pytest.CaptureFixture[str]) -> None:
    def said(*arguments: str) -> tuple[object, str]:
        with pytest.raises(SystemExit) as stopped:
            main.main(["cluster", *arguments])
        out, err = capsys.readouterr()
        return stopped.value.code, out + err

    code, listed = said("list")
    assert code == 0
    assert [Path(line.split()[1]).name for line in listed.splitlines()] == FILES
    assert said("show", "aws") == (0, text("aws.yaml"))
    assert said("show", "README") == (0, text("README.md"))
    code, refused = said("show", "azure")
    assert (code, refused.partition(";")[0]) == (2, "fedsam: cluster: 'azure' is not known")


SETTINGS = """
rounds = 2
model = "lenet5"
[data]
dataset = "digits"
clients = 4
examples = 100
[client]
steps = 1
[server]
participation = 2
[compute]
actors = 1
"""


@pytest.mark.slow
@pytest.mark.ray
def test_the_slurm_script_runs_on_one_machine(tmp_path: Path) -> None:
    (tmp_path / "e.toml").write_text(SETTINGS)
    tools = tmp_path / "bin"
    tools.mkdir()
    # What Slurm would run on another machine runs here; its own options end where the command begins.
    (tools / "srun").write_text('#!/usr/bin/env bash\nwhile [[ $1 == --* ]]; do shift; done\nexec "$@"\n')
    (tools / "scontrol").write_text("#!/usr/bin/env bash\nhostname\n")
    (tools / "fedsam").write_text(f'#!/usr/bin/env bash\nexec {sys.executable} -m experiments.cli.main "$@"\n')
    (tmp_path / "venv" / "bin").mkdir(parents=True)
    (tmp_path / "venv" / "bin" / "activate").write_text(f"PATH={tools}:{Path(sys.executable).parent}:$PATH\n")
    for tool in tools.iterdir():
        tool.chmod(0o755)
    slurm = {"SUBMIT_DIR": tmp_path, "JOB_ID": os.getpid(), "JOB_NODELIST": "here", "JOB_NUM_NODES": 1, "CPUS_PER_TASK": 1}
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    environment |= {f"SLURM_{key}": str(value) for key, value in slurm.items()} | {"FEDSAM_VENV": str(tmp_path / "venv")}
    command = ["bash", FOLDER / "slurm.sh", "e.toml", "--quiet"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        lines, started = [], set()
        for line in process.stdout:
            lines.append(line)
            started |= descendants(process.pid)
    said = "".join(lines)
    assert process.returncode == 0, said
    assert started and not [pid for pid in started if alive(pid)]
    assert not list(tmp_path.glob(".ray-token*"))
    assert not Path(f"/tmp/ray-{os.getpid()}").exists()
    with Results.open(tmp_path / "runs", create=False) as results:
        (run,) = results.runs()
        assert run.status == "finished"
        assert run.config["compute"]["ray_address"].endswith(str(20000 + os.getpid() % 10000))
