"""Components by their former names: the same experiments, the same hashes, the same runs in databases of any age."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clients.corrections import CORRECTIONS
from clients.optimizers import OPTIMIZERS
from experiments.analysis.labels import labels
from experiments.contracts import find
from experiments.settings.catalogue import resolved
from experiments.settings.presets import expand
from experiments.settings.sweep import expand as expand_sweep
from fedsam.config import Client, Component, ConfigError, parse
from fedsam.overrides import override
from fedsam.renamed import RENAMED, with_current_names, with_former_names
from fedsam.results.config_hash import config_hash
from fedsam.results.database import DATABASE_NAME
from fedsam.results.provenance import Provenance
from fedsam.results.store import Results

PROVENANCE = Provenance(versions={}, git_commit="abc", device="a CPU", command="fedsam run a.toml")
NESTED = {"name": "lookback", "inner": {"name": "smoo", "upload": "mu_change"}}
# Former optimizer, correction, server strategy; the hash that the code made which knew only the former names.
FORMER = {
    "fedgf": ("gf", "global_point", "fedgf", "913f4fd0ba96"),
    "fedgmt": ("gmt", {"name": "ema_teacher", "inner": "dual"}, "ema", "84eb26b27832"),
    "fedlesam": ("lesam", "lookback", "fedavg", "a8e9ba67e1bb"),
    "fedsmoo": ("smoo", "smoo", "fedsmoo", "4057a5a1bd1e"),
    "fedsol": ("sol", "none", "fedavg", "52f1b7d166f0"),
    "nested": ("smoo", NESTED, {"name": "fedsmoo", "variant": "minus_mu_all"}, "7b8d9263013d"),
}
# Presets, hashed by the same code.
PRESETS = {
    "fedgf": "c19343b1b699",
    "fedgmt": "62f5acc0a44c",
    "fedlesam_s": "f3d18871c145",
    "fedsmoo": "5a60db973868",
    "fedsol": "2d32a7167408",
}


def settings(name: str) -> dict[str, Any]:
    optimizer, correction, strategy, _ = FORMER[name]
    return {"client": {"optimizer": optimizer, "correction": correction}, "server": {"strategy": strategy}, "data": {"dataset": "digits"}}


@pytest.mark.parametrize("name", FORMER)
def test_both_names_are_one_experiment_and_keep_its_hash(name: str) -> None:
    former, current = settings(name), with_current_names(settings(name))
    assert former != current
    assert parse(former) == parse(current)
    assert parse(former).client.optimizer.name == current["client"]["optimizer"]
    assert config_hash(resolved(parse(former))) == config_hash(resolved(parse(current))) == FORMER[name][-1]
    assert with_former_names(parse(current).dump())["client"]["optimizer"] == {"name": former["client"]["optimizer"]}


@pytest.mark.parametrize("name", PRESETS)
def test_presets_keep_their_hashes(name: str) -> None:
    assert config_hash(resolved(expand({"method": name, "data": {"dataset": "digits"}}))) == PRESETS[name]


def test_a_former_name_is_the_presets_own_component() -> None:
    plain = expand({"method": "fedsmoo"})
    written = expand({"method": "fedsmoo", "client": {"optimizer": {"name": "smoo"}, "correction": {"name": "smoo"}}})
    assert written == plain  # its hyperparameters of these components stay


def test_former_names_are_known_in_sweeps() -> None:
    sweep = {
        "client.optimizer.name": ["sgd", "gf"],
        "client.correction": ["global_point"],
        "overrides": [{"when": {"client.optimizer.name": "gf"}, "set": {"rounds": 9}}],
    }
    swept = expand_sweep({"client": {"optimizer": {"rho": 0.3}}, "server": {"strategy": "fedgf"}, "sweep": sweep})
    assert [(e.client.optimizer.name, e.client.optimizer.settings, e.rounds) for e in swept] == [
        ("sgd", {}, 30),
        ("fedgf", {"rho": 0.3}, 9),
    ]


def test_former_names_are_known_wherever_a_component_is_named() -> None:
    assert Client(optimizer=Component(name="gf")).optimizer.name == "fedgf"
    assert parse(override({}, {"client.correction.inner": "smoo", "client.correction.name": "lookback"})).client.correction.settings == {
        "inner": "fedsmoo"
    }
    assert (find("gf").kind, find("gf").name) == ("optimizer", "fedgf")
    assert find("smoo", "correction").name == "fedsmoo"
    for registry in (OPTIMIZERS, CORRECTIONS):
        for former, current in RENAMED[registry.kind].items():
            assert former not in registry
            assert registry.find(former, "") is registry[current]


def test_a_run_stored_by_its_former_names_is_found_and_labelled_as_the_others(tmp_path: Path) -> None:
    experiment = parse(settings("fedsmoo"))
    plain = resolved(experiment)
    with Results.open(tmp_path) as results:
        runs = [
            results.start_run(e, p, dataset="digits", label_distribution=np.ones((2, 2), dtype=int), provenance=PROVENANCE)
            for e, p in ((experiment, plain), (experiment, plain | {"seed": 1}))
        ]
        results.finish_run(runs[0], "finished")
    former = with_former_names(plain)
    former["compute"]["engine"] = "loop"
    with sqlite3.connect(tmp_path / DATABASE_NAME) as connection:
        connection.execute("UPDATE runs SET config = ? WHERE id = ?", (json.dumps(former), runs[0]))
    with Results.open(tmp_path) as results:
        (run, *_) = results.runs_with_hash(FORMER["fedsmoo"][-1], experiment.seed, "digits")
        assert (run.id, run.status, run.config) == (runs[0], "finished", json.loads(json.dumps(plain, default=str)))
        assert config_hash(run.config) == run.config_hash == config_hash(former)
        assert set(labels(results.runs()).values()) == {"fedsmoo"}


def test_a_setting_that_is_gone_may_have_the_value_that_older_files_give_it() -> None:
    assert parse({"compute": {"engine": "loop"}}) == parse({})
    with pytest.raises(ConfigError, match=r"compute\.engine: unknown key"):
        parse({"compute": {"engine": "graph"}})
