"""What runs measure of their vectors: when, where, and whether the numbers that reach the database are the right ones."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Message
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import cross_entropy

from clients import client_app, queries
from clients.runtime import ClientRuntime
from experiments import Experiment, run
from experiments.callbacks.callback import Callback
from experiments.running import run as running
from experiments.running.evaluation import UNION_CHUNKS, Evaluator
from experiments.running.grids import grids
from experiments.running.result import Result
from experiments.running.run import Session, cohort_strategy
from experiments.running.server_app import RunFailed, serve
from experiments.settings.catalogue import check
from experiments.settings.method import Method
from experiments.settings.presets import expand
from fedsam.data import augmentation, datasets
from fedsam.data.federated import FederatedDataset
from fedsam.evaluation.accuracy import client_accuracies, client_accuracy_summary, evaluate
from fedsam.evaluation.flatness import FLATNESS_MEASURES
from fedsam.grid.inline import InlineGrid
from fedsam.messages import codec
from fedsam.models.flat import Layout
from fedsam.models.network import Network
from fedsam.overrides import override
from fedsam.results.rows import Row, Slice
from fedsam.results.store import Results
from strategies.cohort import CohortStrategy, RunError

ALL = {"measures": list(FLATNESS_MEASURES), "examples": 40, "batch_size": 16, "probes": 4, "iterations": 3, "draws": 3, "points": 3}
UNION = {"union_loss", "union_accuracy"}


def settings(folder: Path, **changes: Any) -> Experiment:
    """One round of a tiny network in float64 on digits of 20 clients, in this process."""
    base = {
        "rounds": 1,
        "runs_dir": str(folder),
        "data": {"dataset": "digits", "clients": 20, "examples": 400},
        "model": "tests.support.networks:tiny",
        "client": {"optimizer": {"name": "sgd", "lr": 0.5}, "batch_size": 10},
        "server": {"participation": 4},
        "compute": {"grid": "inline", "precision": "float64"},
    }
    return expand(override(base, {key.replace("__", "."): value for key, value in changes.items()}))


def federation(experiment: Experiment) -> FederatedDataset:
    return FederatedDataset.of(experiment, datasets.load("digits"), torch.device("cpu"), torch.float64)


def loss_of(result: Result, images: datasets.Images) -> Any:
    """The mean loss over the images as a function of the vector, in one batch."""
    layout, x = Layout.of_module(result.model), augmentation.normalize(images.x, (0.3051,), (0.3238,), torch.float64)
    return lambda w: cross_entropy(torch.func.functional_call(result.model, layout.views(w), (x,)), images.y)


def without_seconds(rows: tuple[Row, ...]) -> list[dict[str, float]]:
    """The measures of each round, without how long they took."""
    return [{name: value for name, value in row.measures.items() if name != "flatness_seconds"} for row in rows]


def kept(result: Result, folder: Path) -> list[Slice]:
    with Results.open(folder) as results:
        return [replace(found, run="") for found in results.slices(result.run_id)]


def test_the_spectrum_is_that_of_the_dense_hessian(tmp_path: Path) -> None:
    experiment = settings(tmp_path, rounds=3, measure__flatness=ALL | {"measures": ["top", "trace"], "probes": 100})
    result = run(experiment)
    got, images = result.rows[-1].measures, federation(experiment).sample(40)
    hessian: Tensor = torch.autograd.functional.hessian(loss_of(result, images), result.w)
    values = torch.linalg.eigvalsh(hessian).flip(0)
    assert [got[f"hessian_top_{i}"] for i in range(1, 6)] == pytest.approx(values[:5].tolist(), rel=1e-2)
    assert all(0 <= got[f"hessian_top_{i}_error"] <= 1e-3 * got[f"hessian_top_{i}"] for i in range(1, 6))
    assert got["hessian_smallest"] == pytest.approx(float(values[-1]), abs=max(got["hessian_smallest_error"], 1e-9))
    assert abs(got["hessian_trace"] - float(hessian.trace())) <= 2 * got["hessian_trace_error"]


def test_slices_pass_through_the_model(tmp_path: Path) -> None:
    experiment = settings(tmp_path, measure__flatness=ALL | {"measures": ["line", "plane"], "points": 5})
    result = run(experiment)
    line, plane = kept(result, tmp_path)
    assert (line.name, line.round, len(line.losses), len(line.losses[0])) == ("line", 1, 5, 1)
    assert (plane.name, plane.round, len(plane.losses), len(plane.losses[0])) == ("plane", 1, 5, 5)
    here = float(loss_of(result, federation(experiment).sample(40))(result.w))
    assert line.losses[2] == pytest.approx((here,)) and plane.losses[2][2] == pytest.approx(here)
    assert [row[2] for row in plane.losses] == pytest.approx([row[0] for row in line.losses])
    assert not {name for name in result.rows[-1].measures if name.startswith(("hessian", "sharpness"))}


@pytest.mark.parametrize("clients", [3, 20])
def test_the_union_is_all_clients_examples(tmp_path: Path, clients: int) -> None:
    assert 3 < UNION_CHUNKS < 20  # fewer clients than queries, and more
    experiment = settings(tmp_path, data__clients=clients, server__participation=2)
    result, data = run(experiment), federation(settings(tmp_path))
    whole = datasets.Images(*(torch.cat([getattr(data.client_examples(c), name) for c in range(20)]) for name in ("x", "y")))
    network = Network(result.model, dtype=torch.float64)
    want = evaluate(network, result.w, network.buffers, whole, data.dataset)
    assert want.examples == 400
    assert result.rows[-1].measures["union_loss"] == pytest.approx(want.loss, rel=1e-12)
    assert result.rows[-1].measures["union_accuracy"] == want.accuracy


def test_clients_are_judged_on_the_test_set_by_their_own_classes(tmp_path: Path) -> None:
    result = run(settings(tmp_path, rounds=5, compute__precision="float32", measure__batch_size=7))
    with Results.open(tmp_path) as results:
        label_distribution = results.label_distribution(result.run_id)
    network, digits = Network(result.model), datasets.load("digits")
    test = evaluate(network, result.w, network.buffers, digits.test, digits, 7)
    want = {
        f"client_accuracy_{name}": value for name, value in client_accuracy_summary(client_accuracies(test, label_distribution)).items()
    }
    want |= {"test_accuracy": test.accuracy, "test_loss": test.loss, "calibration_error": test.calibration_error}
    got = result.rows[-1].measures
    assert {name: got[name] for name in want} == want
    assert 0 <= got["client_accuracy_worst10"] < got["client_accuracy_mean"] < 1


def test_what_is_due_when(tmp_path: Path) -> None:
    flat = ALL | {"measures": ["average"], "every": 2}
    rows = run(settings(tmp_path, rounds=5, measure__every=3, measure__flatness=flat)).rows
    due = {
        name: [row.round for row in rows if name in row.measures]
        for name in ("test_loss", "client_accuracy_mean", "union_loss", "sharpness_average", "flatness_seconds")
    }
    assert due == {
        "test_loss": [3, 5],
        "client_accuracy_mean": [3, 5],
        "union_loss": [5],
        "sharpness_average": [2, 4, 5],
        "flatness_seconds": [2, 4, 5],
    }
    assert [row.evaluate_seconds > 0 for row in rows] == [False, True, True, True, True]
    assert rows[1].measures["flatness_forward_evaluations"] == 4 * 40
    off = run(settings(tmp_path, rounds=2, measure__union=False, measure__flatness=ALL | {"measures": []})).rows
    assert not [name for row in off for name in row.measures if name.startswith(("union", "flatness"))]
    at_end = run(settings(tmp_path, rounds=2, measure__flatness=ALL | {"measures": ["average"]})).rows
    assert ["sharpness_average" in row.measures for row in at_end] == [False, True]


def test_the_session_says_which_round_is_the_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Session, "_is_last", lambda session, row: row.round == 2)
    rows = run(settings(tmp_path, rounds=3, measure__every=10)).rows
    assert [set(row.measures) >= UNION for row in rows] == [False, True]


@pytest.mark.parametrize("actors", [2, pytest.param(1, marks=pytest.mark.slow)])
def test_actors_measure_the_same_bits_as_this_process(tmp_path: Path, shared_actors: None, actors: int) -> None:
    flatness = ALL | {"measures": ["top", "worst_adaptive", "line", "plane"], "examples": 20}
    changes: dict[str, Any] = {"model": "lenet5", "compute__precision": "float32", "measure__flatness": flatness}
    changes |= {"rounds": 3, "measure__batch_size": 16, "data__validation": 0.1}
    inline, told = run(settings(tmp_path, **changes)), Told()
    on_ray = run(settings(tmp_path, **changes, compute__grid="ray", compute__actors=actors), told)
    assert told.rows == list(on_ray.rows)
    assert [row.round for row in told.rows if "test_loss" in row.measures] == [1, 2, 3]
    assert without_seconds(on_ray.rows) == without_seconds(inline.rows)
    assert all("validation_accuracy" in row.measures for row in inline.rows)
    assert kept(on_ray, tmp_path) == kept(inline, tmp_path)
    assert len(kept(on_ray, tmp_path)) == 2


class Told(Callback):
    """Keeps the rows."""

    def __init__(self) -> None:
        self.rows: list[Row] = []

    def round(self, row: Row) -> None:
        self.rows.append(row)


class LateGrid(InlineGrid):
    """Answers what is in the background as late as it may.

    Attributes:
        log: Types of the messages of each exchange.
    """

    def __init__(self, experiment: Experiment, dataset: datasets.Dataset) -> None:
        super().__init__(partial(client_app.make, dataset), experiment.data.clients, {"experiment": experiment.dumps()})
        self.log: list[str] = []
        self._behind = list[tuple[Iterable[Message], Callable[[Sequence[Message]], None]]]()

    def push_background(self, messages: Iterable[Message], done: Callable[[Sequence[Message]], None]) -> None:
        self._behind.append((messages, done))

    def await_background(self, most: int = 0) -> None:
        while len(self._behind) > most:
            super().push_background(*self._behind.pop(0))

    def finish(self) -> None:
        self.await_background()
        super().finish()

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        sent = list(messages)
        self.log += sorted({message.metadata.message_type.removeprefix("query.") for message in sent})
        return super().send_and_receive(sent, timeout=timeout)


def run_late(experiment: Experiment, callback: Callback | None = None) -> tuple[Result, list[str]]:
    """The result of a run on a `LateGrid`, and its log."""
    dataset = datasets.load("digits")
    grid = LateGrid(experiment, dataset)
    return serve(check(experiment), grid, dataset, callback or Callback()), grid.log


def test_a_round_that_is_evaluated_after_the_next_has_trained_has_the_same_row(tmp_path: Path) -> None:
    experiment, told = settings(tmp_path, rounds=4, measure__every=2, checkpoint__every=1), Told()
    late, log = run_late(experiment, told)
    assert log == ["train", "train", "train", "test", "train", "test", "union"]
    soon = run(experiment)
    assert [row.measures for row in late.rows] == [row.measures for row in soon.rows]
    assert told.rows == list(late.rows)
    with Results.open(tmp_path) as results:
        assert [row.measures for row in results.rounds(late.run_id)] == [row.measures for row in late.rows]
    first, second = (load_file(tmp_path / result.run_id / "round-00002.safetensors") for result in (late, soon))
    assert all(torch.equal(first[name], second[name]) for name in first)


def counting_energy(experiment: Experiment, method: Method) -> CohortStrategy:
    strategy = cohort_strategy(experiment, method)
    strategy.round_config = replace(strategy.round_config, energy=lambda: 1.0)
    return strategy


@pytest.mark.parametrize(
    ("changes", "measured"),
    [
        ({"server__deadline": 60.0, "server__on_client_error": "drop"}, ["test"]),
        ({"measure__flatness": ALL | {"measures": ["average"], "every": 1}}, ["flatness", "test"]),
        ({"energy": True}, ["test"]),
        ({"budget": 1, "rounds": 9}, ["test", "union"]),
    ],
)
def test_an_evaluation_is_waited_for_where_the_next_round_or_its_costs_would_depend_on_it(
    tmp_path: Path, changes: dict[str, Any], measured: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if changes.pop("energy", False):
        monkeypatch.setattr(running, "cohort_strategy", counting_energy)
    _, log = run_late(settings(tmp_path, **{"rounds": 2} | changes))
    assert log[: 1 + len(measured)] == ["train", *measured]


def failing_in(round: int, error: BaseException, answer: Callable[..., Any]) -> Callable[..., Any]:
    """Answers messages, or trains from broadcasts, but not in a round."""

    def fail(runtime: ClientRuntime, sent: Message | codec.Broadcast, *others: Any) -> Any:
        if (codec.decode_broadcast(sent.content) if isinstance(sent, Message) else sent).round == round:
            raise error
        return answer(runtime, sent, *others)

    return fail


@pytest.mark.parametrize(
    ("what", "error", "raised", "rounds"),
    [
        ("test", ValueError("tired"), r"measuring test \(from 0, to 1\) after round 2 \(seed 0\) failed: ValueError: tired", [1]),
        ("trained", ValueError("tired"), r"client \d+ in round 3 \(seed 0\) failed: ValueError: tired", [1, 2]),
        ("trained", KeyboardInterrupt("stopped"), "stopped", [1]),
    ],
)
def test_rounds_before_an_error_are_kept_with_all_their_measures_and_none_after_it(
    tmp_path: Path, what: str, error: BaseException, raised: str, rounds: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    module, round = (queries, 2) if what == "test" else (client_app, 3)
    monkeypatch.setattr(module, what, failing_in(round, error, getattr(module, what)))
    with pytest.raises((RunFailed, KeyboardInterrupt), match=raised):
        run_late(settings(tmp_path, rounds=3))
    with Results.open(tmp_path) as results:
        (kept,) = results.runs()
        rows = results.rounds(kept.id)
    assert kept.status == ("interrupted" if raised == "stopped" else "failed")
    assert [row.round for row in rows] == rounds
    assert all({"test_loss", "calibration_error"} <= set(row.measures) for row in rows)


@pytest.mark.parametrize("next_fails", [False, True])
def test_a_round_whose_loss_is_known_late_not_to_be_finite_is_the_last(
    tmp_path: Path, next_fails: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = Evaluator._measured

    def lost(evaluator: Evaluator, row: Row, *others: Any, **options: Any) -> tuple[Row, list[Any]]:
        row, slices = measured(evaluator, row, *others, **options)
        return (replace(row, measures={**row.measures, "test_loss": math.inf}) if row.round == 2 else row), slices

    monkeypatch.setattr(Evaluator, "_measured", lost)
    if next_fails:
        monkeypatch.setattr(client_app, "answer", failing_in(3, ValueError("tired"), client_app.answer))
    with pytest.raises(RunFailed, match=r"round 2 \(seed 0\) diverged: test loss inf;") as failed:
        run_late(settings(tmp_path, rounds=4))
    assert failed.value.status == "diverged"
    with Results.open(tmp_path) as results:
        (run,) = results.runs()
        assert (run.status, [row.round for row in results.rounds(run.id)]) == ("diverged", [1, 2])


def test_measuring_changes_no_training(tmp_path: Path) -> None:
    changes: dict[str, Any] = {
        "model": "tests.support.networks:normed",
        "rounds": 3,
        "client__optimizer_state": "keep",
        "method": "fedgamma",
    }
    unmeasured = run(settings(tmp_path, **changes, measure__union=False, measure__every=9))
    measured = run(settings(tmp_path, **changes, measure__flatness=ALL | {"every": 1}))
    assert torch.equal(measured.w, unmeasured.w)
    assert all(torch.equal(b, c) for b, c in zip(measured.model.buffers(), unmeasured.model.buffers(), strict=True))
    assert measured.rows[-1].gradient_evaluations == unmeasured.rows[-1].gradient_evaluations


def test_methods_and_client_counts_share_examples_and_draws(tmp_path: Path) -> None:
    names = ["top", "trace", "average", "average_adaptive", "worst"]
    # Nobody moves, so that all are measured at the initial vector.
    still = {"client__optimizer__lr": 1e-300, "measure__flatness": ALL | {"measures": names}}

    def measured(**changes: Any) -> dict[str, float]:
        (values,) = without_seconds(run(settings(tmp_path, **still, **changes)).rows)
        return {name: value for name, value in values.items() if name.startswith(("hessian", "sharpness"))}

    first = measured()
    assert len(first) == 20
    assert measured(client__optimizer__name="sam", data__clients=5) == first
    assert measured(server__strategy="fedadam", server__strategy__lr=1e-300) == first
    assert measured(seed=1)["hessian_trace"] != first["hessian_trace"]


def test_a_vector_that_is_not_finite_is_measured(tmp_path: Path) -> None:
    experiment = settings(tmp_path, measure__flatness=ALL)
    with grids([experiment]) as grid_of:
        grid, dataset = grid_of(experiment)
        result = serve(check(experiment), grid, dataset, Callback())
        network, row = Network(result.model, dtype=torch.float64), replace(result.rows[-1], measures={})
        told = list[tuple[Row, Sequence[Slice]]]()
        evaluator = Evaluator(experiment, grid, network, dataset, np.ones((20, 10), dtype=np.int64))
        evaluator.evaluate(row, torch.full_like(result.w, math.nan), torch.empty(0), lambda *found: told.append(found), last=True)
        ((measured, slices),) = told
    estimates = [value for name, value in measured.measures.items() if name.startswith(("hessian", "sharpness"))]
    assert measured.measures.keys() == result.rows[-1].measures.keys()
    assert len(estimates) == 22 and all(map(math.isnan, estimates))
    assert math.isnan(measured.measures["union_loss"]) and math.isnan(measured.measures["test_loss"])
    assert all(math.isnan(loss) for found in slices for losses in found.losses for loss in losses)
    with Results.open(tmp_path) as results:
        results.continue_run(results.find_one(row.run), experiment.dump(), {})
        results.append_round(replace(measured, round=2))
        results.add_slice(replace(slices[0], round=2))
        assert math.isnan(results.rounds(row.run)[-1].measures["hessian_trace"])


def test_a_measure_that_fails_is_named(tmp_path: Path) -> None:
    flat = ALL | {"measures": ["average", "top"], "eigenvalues": 21}
    with pytest.raises(RunError, match=r"measuring flatness \(measure top\) after round 1 \(seed 0\) failed: ConfigError: k: 21 is not"):
        run(settings(tmp_path, model="tests.support.networks:tiniest", measure__flatness=flat))
