"""What clients measure of the global model: means, and evaluations that fail or are late."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import pytest
from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict

from fedsam.grid.inline import InlineGrid
from fedsam.messages import codec
from strategies.round import RunError
from tests.golden_replay.strategies import Stage, app_of
from tests.strategies.test_cohort import Singly
from tests.strategies.test_identities import federation, stage

ACCURACY = (0.7, 0.1, 0.6, 0.2)


class Lossy(InlineGrid):
    """Brings no reply that says it is late."""

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        return [r for r in super().send_and_receive(messages, timeout=timeout) if r.has_error() or "late" not in r.content]


def tiring(what: str, times: int, grid: type[InlineGrid] = Lossy, **changes: object) -> Stage:
    """Four clients of (1, 2, 3, 4) examples that also evaluate; the first `times` evaluations of client 1 go wrong."""
    played = stage("fedavg", federation("full"), measure__clients=True, **changes)
    app, wrong = app_of(played.place), iter([what] * times)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        client = int(context.node_config["partition-id"])
        how = next(wrong, "") if client == 1 else ""
        if how == "error":
            raise OSError("tired")
        loss = {} if how == "malformed" else {"loss": 1.0}
        content = RecordDict({"metrics": MetricRecord({"num-examples": client + 1, "accuracy": ACCURACY[client], **loss})})
        if how == "late":
            content["late"] = ConfigRecord()
        return Message(content, reply_to=message)

    object.__setattr__(played, "grid", grid(lambda: app, 4, {}))
    return played


def evaluated(played: Stage) -> Mapping[str, float]:
    """What the clients measure after the first round."""
    played.play(1)
    sent = played.strategy.configure_evaluate(1, codec.arrays({}), ConfigRecord(), played.grid)
    played.strategy.aggregate_evaluate(1, played.grid.send_and_receive(sent))
    return played.strategy.client_measures


def mean_accuracy(*clients: int) -> float:
    return float(np.average([ACCURACY[client] for client in clients], weights=[client + 1 for client in clients]))


EVALUATIONS = {"late": "did not reply in time", "error": "failed: OSError: tired", "malformed": "sent no metric loss"}


@pytest.mark.parametrize("what", EVALUATIONS)
def test_an_evaluation_that_fails_or_is_late_stops_the_run_and_names_client_and_round(what: str) -> None:
    with pytest.raises(RunError, match=rf"client 1 in round 1 \(seed 0\) {EVALUATIONS[what]}"):
        evaluated(tiring(what, 1))


@pytest.mark.parametrize("what", EVALUATIONS)
def test_with_failures_allowed_an_evaluation_that_cannot_be_used_is_left_out_and_counted(what: str) -> None:
    played = tiring(what, 1, server__on_client_error="drop", server__quorum=4)
    assert evaluated(played)["client_accuracy"] == pytest.approx(mean_accuracy(0, 2, 3), abs=1e-15)
    last = played.strategy.last
    assert last is not None
    assert (list(last.metrics), dict(last.failures)) == ([0, 1, 2, 3], {})
    assert [(client, why.splitlines()[0]) for client, why in last.evaluate_failures.items()] == [(1, EVALUATIONS[what])]


@pytest.mark.parametrize("what", EVALUATIONS)
def test_an_evaluation_that_fails_once_is_asked_for_again(what: str) -> None:
    played = tiring(what, 1, server__on_client_error="retry")
    assert evaluated(played)["client_accuracy"] == pytest.approx(mean_accuracy(0, 1, 2, 3), abs=1e-15)
    last = played.strategy.last
    assert last is not None
    assert (list(last.evaluate_failures), list(last.evaluate_retried), list(last.retried)) == ([], [1], [])


@pytest.mark.parametrize("what", EVALUATIONS)
def test_an_evaluation_that_fails_twice_stops_the_run(what: str) -> None:
    with pytest.raises(RunError, match=rf"client 1 in round 1 \(seed 0\) {EVALUATIONS[what]}"):
        evaluated(tiring(what, 2, server__on_client_error="retry"))


def test_evaluations_average_to_the_same_bits_in_whatever_order_they_come() -> None:
    assert evaluated(tiring("", 0)) == evaluated(tiring("", 0, Singly))
