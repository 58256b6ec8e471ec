"""Somebody's own data from the command line: each form ends with a result, each mistake with a sentence and nothing started."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from experiments.analysis.conditions import data_text, run_conditions
from experiments.analysis.labels import labels
from experiments.callbacks.callback import Callback
from experiments.cli import main
from experiments.cli.commands.run_config import run_config
from experiments.planning.plan import plan
from experiments.reporting import figure_list, report
from experiments.running import grids as grids_module
from experiments.running.grids import DatasetCache, actor_groups
from experiments.running.server_app import serve
from experiments.settings.catalogue import check, resolved
from experiments.settings.sweep import expand
from fedsam import plugins
from fedsam.config import Experiment, parse
from fedsam.results.config_hash import config_hash
from fedsam.results.store import Results
from tests.support.recorded import add

Fedsam = Callable[..., tuple[int, str, str]]
NAMES = ("cat", "dog", "emu")

CONFIG = """
rounds = 1
model = "{model}"

[data]
clients = 3
partition = "iid"

[client]
batch_size = 4

[server]
participation = 2

[compute]
grid = "inline"
"""
MINE = """
import numpy as np
from torch import nn
from fedsam.data.datasets import Dataset

def small(image, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(image[0] * image[1] * image[2], classes))

def blobs(examples=24):
    y = np.arange(examples) % 3
    x = np.random.default_rng(0).random((examples, 6, 6)) / 2 + y[:, None, None] / 6
    return Dataset.from_arrays(x, y, x[:9], y[:9], class_names=["cat", "dog", "emu"], client_train=y % 3)
"""


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
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory with a config, a module, and the same images as a folder, a NumPy file and a Hugging Face dataset."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.toml").write_text(CONFIG.format(model="own_things:small"))
    (tmp_path / "own_things.py").write_text(MINE)
    y = np.arange(24) % 3
    x = (np.random.default_rng(0).integers(0, 120, (24, 6, 6)) + 60 * y[:, None, None]).astype(np.uint8)
    for number, (image, label) in enumerate(zip(x, y, strict=True)):
        file = tmp_path / "pets" / ("test" if number < 9 else "train") / NAMES[label] / f"{number:02}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(file)
    arrays = {"x_train": x[9:], "y_train": np.array(NAMES)[y[9:]], "x_test": x[:9], "y_test": np.array(NAMES)[y[:9]]}
    np.savez(tmp_path / "pets.npz", **arrays, client_train=np.array([7, 7, 7, 20, 20, 40] * 2 + [7, 7, 7]))
    yield tmp_path
    plugins.receive(())
    plugins.search()


def save_huggingface(path: Path) -> None:
    import datasets

    with np.load("pets.npz") as file:
        splits = {
            which: datasets.Dataset.from_dict(
                {"image": list(file[f"x_{which}"]), "label": [NAMES.index(name) for name in file[f"y_{which}"]]},
                features=datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(NAMES))}),
            )
            for which in ("train", "test")
        }
    datasets.disable_progress_bars()
    datasets.DatasetDict(splits).save_to_disk(path)


@pytest.mark.parametrize("name", ["folder:pets", "npz:pets.npz", "hf:pets.hf", "own_things:blobs"])
def test_every_form_ends_with_a_result_that_names_the_classes(
    fedsam: Fedsam, place: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "report_figures", lambda comparison: figure_list._label_distributions(comparison, ""))  # the one looked at
    if name == "hf:pets.hf":
        save_huggingface(place / "pets.hf")
    partition = "natural" if name == "npz:pets.npz" else "iid"
    code, _, err = fedsam("run", "c.toml", "-q", "-o", f"data.dataset={name}", "-o", f"data.partition={partition}")
    assert code == 0, err
    with Results.open(place / "runs") as results:
        (run,) = results.runs()
        assert (run.dataset, run.dataset_wanted, run.classes) == (name, name, 3)
        assert results.class_names(run.id) == NAMES
        assert run.versions["data"].startswith("sha256:")
        if partition == "natural":
            assert results.label_distribution(run.id).sum(axis=1).tolist() == [9, 4, 2]
    (figure,) = place.glob("runs/reports/*/figures/holdings*.svg")
    for kind in NAMES:
        assert f"<!-- {kind} -->" in figure.read_text()  # matplotlib draws texts as shapes, and says in a comment what they are


def test_the_table_of_who_holds_what_names_the_classes(fedsam: Fedsam) -> None:
    code, out, _ = fedsam("partition", "c.toml", "-o", "data.dataset=folder:pets")
    head = out.splitlines()[2]
    assert code == 0 and out.startswith("folder:pets, 3 clients, iid")
    assert tuple(word for word in head.split() if word.isalpha())[-3:] == NAMES


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_a_partitioner_of_flwr_datasets(fedsam: Fedsam, place: Path) -> None:
    settings = ("-o", "data.partition.name=flwr_datasets:DirichletPartitioner", "-o", "data.partition.min_partition_size=2")
    run = ("run", "c.toml", "-q", "-o", "data.dataset=npz:pets.npz", *settings)
    assert fedsam(*run, "-o", "data.partition.alpha=-1")[0] == 2
    code, _, err = fedsam(*run, "-o", "data.partition.alpha=0.5")
    assert code == 0, err
    with Results.open(place / "runs") as results:
        assert results.label_distribution(results.runs()[0].id).sum(axis=1).min() >= 2


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no folder": ({"data.dataset": "folder:nowhere"}, "data.dataset: 'folder:nowhere' is not allowed: nowhere does not exist"),
    "no test": ({"data.dataset": "folder:pets/train"}, "pets/train/train does not exist"),
    "no image": ({"data.dataset": "folder:spoilt"}, "spoilt/train/cat/notes.txt is no image that can be read"),
    "no file": ({"data.dataset": "npz:pets"}, "data.dataset: 'npz:pets' is not allowed: "),
    "no arrays": ({"data.dataset": "npz:c.toml"}, "c.toml is no NumPy file of arrays"),
    "no dataset": ({"data.dataset": "hf:pets"}, "pets/dataset_dict.json does not exist"),
    "no module": ({"data.dataset": "nothing_there:blobs"}, "there is no module nothing_there"),
    "no function": ({"data.dataset": "own_things:blob"}, "own_things.py has no blob, did you mean 'blobs'?"),
    "setting": (
        {"data.dataset": "own_things:blobs", "data.dataset.example": "5"},
        "data.dataset.example: unknown key, did you mean 'examples'?",
    ),
    "size": ({"data.dataset": "folder:pets", "data.dataset.image_size": "0"}, "data.dataset.image_size: 0 is not allowed"),
    "ours": (
        {"data.dataset.name": "digits", "data.dataset.image_size": "8"},
        "data.dataset.image_size: unknown key; digits has no settings",
    ),
    "fallback": ({"data.dataset": "folder:nowhere", "data.fallback": "digits"}, "nowhere does not exist"),
    "clients": (
        {"data.dataset": "npz:pets.npz", "data.partition": "natural", "data.clients": "4"},
        "data.clients: 4 is not allowed: the examples come from 3 clients",
    ),
    "nobody knows": (
        {"data.dataset": "digits", "data.partition": "natural"},
        "data.partition: 'natural' is not allowed: digits does not say which client an example comes from",
    ),
    "partitioner": ({"data.dataset": "digits", "data.partition": "own_things:NoSuch"}, "own_things.py has no NoSuch"),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("command", ["run", "compare"])
def test_a_mistake_is_a_sentence_and_nothing_starts(
    fedsam: Fedsam, place: Path, monkeypatch: pytest.MonkeyPatch, command: str, case: str
) -> None:
    if case == "no image":
        (place / "pets").rename(place / "spoilt")
        (place / "spoilt" / "train" / "cat" / "notes.txt").write_text("meow")
    monkeypatch.setattr(grids_module, "actor_pool", lambda *_, **__: pytest.fail("Ray is started"))
    settings, message = BAD[case]
    changes = [word for key, value in settings.items() for word in ("-o", f"{key}={value}")]
    code, out, err = fedsam(command, "c.toml", "-q", "-o", "compute.grid=ray", *changes)
    assert (code, out) == (2, "")
    assert err.startswith("fedsam: data.") and message in err
    assert not (place / "runs" / "fedsam.db").exists()


def own(place: Path, **changes: Any) -> Experiment:
    settings = {
        "rounds": 2,
        "model": "own_things:small",
        "runs_dir": str(place / "runs"),
        "data": {"dataset": "own_things:blobs", "clients": 3, "partition": "natural"},
        "client": {"batch_size": 4},
        "server": {"participation": 3},
        "compute": {"shard_size": 1, **changes},
    }
    plugins.search(place)
    return parse(settings)


def results_of(experiment: Experiment, parallel: int = 1) -> torch.Tensor:
    with actor_groups([experiment], parallel) as (group, *_):
        return serve(check(experiment), *group(experiment), Callback()).w


@pytest.mark.slow
def test_two_actors_give_the_numbers_of_this_process(place: Path, shared_actors: None) -> None:
    expected = results_of(own(place, grid="inline"))
    assert torch.equal(results_of(own(place, actors=2)), expected)


@pytest.mark.slow
def test_one_actor_gives_the_numbers_of_this_process(place: Path, shared_actors: None) -> None:
    expected = results_of(own(place, grid="inline"))
    assert torch.equal(results_of(own(place, actors=1)), expected)


def test_the_dataset_is_part_of_what_makes_an_experiment() -> None:
    def hashed(dataset: Any) -> str:
        return config_hash(parse({"data": {"dataset": dataset}}).dump())

    assert hashed("digits") == hashed({"name": "digits"})
    different = ["digits", "folder:a", "folder:b", {"name": "folder:a", "image_size": 8}, {"name": "folder:a", "image_size": [8, 8]}]
    assert len({hashed(dataset) for dataset in different}) == len(different)


def test_changed_files_are_another_experiment(place: Path) -> None:
    (experiment,) = expand({**own(place, grid="inline").dump(), "data": {"dataset": "folder:pets", "clients": 3, "partition": "iid"}})
    results_of(experiment)
    with Results.open(place / "runs") as results:
        assert plan([experiment], DatasetCache(), results)[0].concluded_run == results.runs()[0]
        Image.fromarray(np.full((6, 6), 9, np.uint8)).save(place / "pets" / "train" / "cat" / "99.png")
        assert plan([experiment], DatasetCache(), results)[0].concluded_run is None


def test_datasets_are_swept() -> None:
    table = {"name": "folder:pets", "image_size": 4}
    swept = expand({"sweep": {"data.dataset": ["digits", table]}})
    assert [experiment.data.dataset for experiment in swept] == ["digits", swept[1].data.source]
    assert swept[1].data.source.settings == {"image_size": 4}
    sizes = expand({"data": {"dataset": "folder:pets"}, "sweep": {"data.dataset.image_size": [1, 2]}})
    assert [(one.data.source.name, one.data.source.settings) for one in sizes] == [("folder:pets", {"image_size": n}) for n in (1, 2)]


def test_overrides_of_a_sweep_know_a_dataset_by_its_name() -> None:
    when = [{"when": {"data.dataset.name": "digits"}, "set": {"rounds": 3}}, {"when": {"data.dataset": "folder:a"}, "set": {"rounds": 4}}]
    swept = expand({"sweep": {"data.dataset": ["digits", {"name": "folder:a", "image_size": 4}], "overrides": when}})
    assert [experiment.rounds for experiment in swept] == [3, 4]


def test_conditions_tell_datasets_and_their_settings(runs_dir: Path) -> None:
    with Results.open(runs_dir) as results:
        for name, size in (("folder:pets", 4), ("folder:pets", 6), ("digits", None)):
            dataset = {"name": name, "image_size": size} if size else name
            add(results, [0.9], dataset=name, data__dataset=dataset)
        assert set(labels(results.runs()).values()) == {"sgd"}
        texts = [data_text(condition) for condition in run_conditions(results.runs()).values()]
        assert texts == ["folder:pets, image_size=4", "folder:pets, image_size=6", "digits"]


def test_print_config_can_be_run_again(fedsam: Fedsam, place: Path) -> None:
    changes = ("-o", "data.dataset=folder:pets", "-o", "data.dataset.image_size=4", "--print-config")
    code, out, _ = fedsam("run", "c.toml", *changes)
    assert code == 0
    (place / "again.toml").write_text(out)
    assert fedsam("run", "again.toml", "--print-config")[1] == out
    assert '[data.dataset]\nname = "folder:pets"\nimage_size = 4' in out


def test_paths_are_absolute_for_flowers_runtime(place: Path) -> None:
    assert f'\\"dataset\\": \\"folder:{place}/pets\\"' in run_config(parse({"data": {"dataset": "folder:pets"}}))


def test_the_plan_shows_what_each_run_is_called(place: Path) -> None:
    datasets = ["npz:pets.npz", {"name": "folder:pets", "image_size": 5}]
    experiments = [parse({"data": {"dataset": dataset, "clients": 2, "partition": "iid"}}) for dataset in datasets]
    planned = plan(experiments, DatasetCache(), None)
    assert [one.label for one in planned] == ["sgd", "sgd"]
    assert [data_text(one.condition) for one in planned] == ["npz:pets.npz", "folder:pets, image_size=5"]
    assert resolved(experiments[1])["data"]["dataset"] == datasets[1]
