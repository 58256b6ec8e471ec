"""Every golden case passes through the real code; the harness itself notices what is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conformance import Golden, collect, main, run

GOLDEN = Path(__file__).parent / "golden"
SGD = GOLDEN / "optimizers" / "sgd.json"


@pytest.mark.parametrize("golden", list(collect([GOLDEN])), ids=lambda golden: f"{golden.path.stem}-{golden.id}")
def test_golden_case_passes(golden: Golden):
    verdict, reason = run(golden)
    assert verdict == "PASS", reason


def changed(folder: Path, **changes) -> str:
    """A copy of the SGD file whose first case has the given keys replaced."""
    document = json.loads(SGD.read_text())
    document["schema"] = changes.pop("schema", document["schema"])
    document["method"] = changes.pop("method", document["method"])
    document["cases"][0].update(changes)
    path = folder / "changed.json"
    path.write_text(json.dumps(document))
    return str(path)


def test_exit_status_0_when_all_pass(capsys):
    assert main([str(SGD)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:-1]] == ["PASS"] * 3
    assert lines[-1] == "3 passed, 0 failed"


def test_only_selects_a_method_or_a_case(capsys):
    assert main([str(GOLDEN / "optimizers"), "--only", "sgd"]) == 0
    assert main([str(GOLDEN / "optimizers"), "--only", "adamw-mlp"]) == 0
    assert [line for line in capsys.readouterr().out.splitlines() if "passed" in line] == ["3 passed, 0 failed", "1 passed, 0 failed"]


def test_a_wrong_value_fails(tmp_path, capsys):
    expected = json.loads(SGD.read_text())["cases"][0]["expected"]
    expected["params"][3][0] += 1e-7
    assert main([changed(tmp_path, expected=expected)]) == 1
    assert "2 passed, 1 failed" in capsys.readouterr().out


@pytest.mark.parametrize("key", ["hyper", "events", "random", "per_step"])
def test_what_the_harness_cannot_replay_fails(tmp_path, capsys, key):
    value = {
        "hyper": {"lr": 0.2, "warp": 1.0},
        "events": [{"before_step": 1, "do": "warp"}],
        "random": {"warp": [0] * 6},
        "per_step": {"warp": [0.0] * 6},
    }[key]
    assert main([changed(tmp_path, **{key: value})]) == 1
    assert "warp" in capsys.readouterr().out


@pytest.mark.parametrize("unknown", [{"method": "warp"}, {"schema": "warp/1"}])
def test_exit_status_2_for_an_unknown_method_or_schema_after_the_rest(tmp_path, capsys, unknown):
    assert main([changed(tmp_path, **unknown), str(SGD)]) == 2
    assert "3 passed, 0 failed" in capsys.readouterr().out


def test_exit_status_2_when_nothing_was_replayed(tmp_path, capsys):
    broken = tmp_path / "broken.json"
    broken.write_text("{")
    assert main([str(broken)]) == 2
    assert main([str(SGD), "--only", "warp"]) == 2
    assert "0 passed, 0 failed" in capsys.readouterr().out
