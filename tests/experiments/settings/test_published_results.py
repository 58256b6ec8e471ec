"""Published results in a file: which runs they are of, and what of the command line makes others of them."""

from __future__ import annotations

from typing import Any

import pytest

from experiments.settings import shipped
from experiments.settings.catalogue import resolved
from experiments.settings.sweep import as_sweep, expand
from fedsam.config import ConfigError
from fedsam.overrides import override, read
from fedsam.results.config_hash import config_hash

FILE: dict[str, Any] = {
    "sweep": {"client.optimizer.name": ["sgd", "sam"], "data.clients": [5, 10], "seeds": [0, 1]},
    "published": [
        {"when": {"client.optimizer.name": "sam", "data.clients": 5}, "accuracy": 78.1, "interval": 0.3, "source": "a paper, table 1"}
    ],
}


def test_a_result_is_of_the_runs_that_its_when_fits_whatever_their_seed() -> None:
    runs = expand(FILE)
    known = {(run.client.optimizer.name, run.data.clients, run.seed): run.published for run in runs if run.published}
    assert set(known) == {("sam", 5, 0), ("sam", 5, 1)}
    published = known["sam", 5, 0]
    assert (published.accuracy, published.interval, published.source, published.changed) == (78.1, 0.3, "a paper, table 1", ())


def test_a_table_without_when_is_of_every_run() -> None:
    (run,) = expand({"published": {"accuracy": 90, "source": "a paper"}})
    assert run.published is not None
    assert run.published.accuracy == 90


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"when": {"client.optimizer.name": "esam"}}, r"published\[1\]\.when: .*esam.* fits no point"),
        ({"when": {"clients": 5}}, r"published\[1\]\.when\.clients: unknown key"),
        ({"when": {}}, r"published\[1\]: .* must be a table with `when`, `accuracy` and `source`"),
        ({"accuracy": 0.781e3}, r"published\[1\]\.accuracy: 781\.0 is not allowed"),
        ({"source": ""}, r"published\[1\]\.source"),
        ({"interval": -1}, r"published\[1\]\.interval"),
        ({"acuracy": 3}, r"published\[1\]\.acuracy: unknown key"),
    ],
)
def test_what_is_wrong_with_a_result_is_said(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        expand(FILE | {"published": [FILE["published"][0] | changes]})


def test_a_result_needs_accuracy_and_source_and_two_of_one_run_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"published\[1\]\.(accuracy|source)"):
        expand(FILE | {"published": [{"when": {"data.clients": 5}}]})
    with pytest.raises(ConfigError, match=r"published\[2\]\.when: fits what published\[1\] fits"):
        expand(FILE | {"published": [*FILE["published"], {"when": {"data.clients": 5}, "accuracy": 1, "source": "another"}]})


@pytest.mark.parametrize(
    ("changes", "changed"),
    [
        ({"rounds": 3}, ("rounds",)),
        ({"client.optimizer.rho": 0.2, "runs_dir": "elsewhere"}, ("client.optimizer.rho",)),
        ({"data.clients": 5, "seed": 3, "data.root": "here", "compute.actors": 1}, ()),
        ({"client.optimizer.name": "sam"}, ()),
    ],
)
def test_what_the_command_line_changes_is_kept_with_the_result(changes: dict[str, Any], changed: tuple[str, ...]) -> None:
    found = [run.published for run in expand(override(FILE, changes), set(changes)) if run.published]
    assert found
    assert {published.changed for published in found} == {changed}


def test_other_clients_on_the_command_line_leave_no_result_and_are_no_mistake() -> None:
    assert not any(run.published for run in expand(override(FILE, {"data.clients": 7}), {"data.clients"}))


def test_runs_are_found_again_with_and_without_a_published_result() -> None:
    without = expand({key: value for key, value in FILE.items() if key != "published"})
    assert [config_hash(resolved(run)) for run in expand(FILE)] == [config_hash(resolved(run)) for run in without]


@pytest.mark.parametrize("settings", [FILE, read(shipped.configs()["papers/fedwmsam_cifar10"])], ids=["some", "all"])
def test_the_settings_of_runs_of_which_some_have_a_result_can_be_written_as_one_file(settings: dict[str, Any]) -> None:
    runs = expand(settings)
    assert expand(as_sweep([run.dump() for run in runs])) == runs


def test_recipes_of_papers_have_the_published_numbers() -> None:
    runs = expand(read(shipped.configs()["papers/fl_simulator_cifar10"]))
    known = {(run.method, run.data.clients, run.data.partition.settings.get("alpha")): run for run in runs}
    assert len(known) == len(runs) == 80
    assert {key: run.published.accuracy for key, run in known.items() if run.published}["mofedsam", 200, 0.1] == 79.02
    assert all(run.client.batch_size == 25 and run.server.participation == 0.05 for run in runs if run.data.clients == 200)
