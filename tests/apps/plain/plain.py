"""NumPy arrays as a model, and Flower's FedAvg as it is, but for the order in which it adds up."""

import json
from pathlib import Path

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from sklearn.datasets import load_iris

client = ClientApp()
server = ServerApp()


def _data(context: Context):
    """Every n-th iris: features and a constant (N, 5), classes (N,)."""
    x, y = load_iris(return_X_y=True)
    mine = slice(context.node_config["partition-id"], None, context.node_config["num-partitions"])
    x = (x - x.mean(0)) / x.std(0)
    return np.hstack([x, np.ones((len(x), 1))])[mine], y[mine]


def _probabilities(x, w):
    scores = np.exp(x @ w)
    return scores / scores.sum(1, keepdims=True)


@client.train()
def train(message: Message, context: Context) -> Message:
    (w,), (x, y) = message.content["arrays"].to_numpy_ndarrays(), _data(context)
    rng = np.random.default_rng([context.node_config["partition-id"], message.content["config"]["server-round"]])
    for example in rng.permutation(len(y)):
        row = x[example : example + 1]
        w = w - message.content["config"]["lr"] * row.T @ (_probabilities(row, w) - np.eye(3)[y[example]])
    return _reply(message, context, len(y), ArrayRecord([w]))


@client.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    (w,), (x, y) = message.content["arrays"].to_numpy_ndarrays(), _data(context)
    return _reply(message, context, len(y), None, accuracy=float((_probabilities(x, w).argmax(1) == y).mean()))


def _reply(message: Message, context: Context, examples: int, arrays: ArrayRecord | None, **metrics: float) -> Message:
    record = MetricRecord({"num-examples": examples, "partition": int(context.node_config["partition-id"]), **metrics})
    return Message(RecordDict({"metrics": record, **({"arrays": arrays} if arrays else {})}), reply_to=message)


class InOrder(FedAvg):
    """FedAvg that adds up in the order of the partitions: floating-point sums depend on the order, and the network's is chance."""

    def aggregate_train(self, server_round, replies):
        return super().aggregate_train(server_round, sorted(replies, key=_partition))

    def aggregate_evaluate(self, server_round, replies):
        return super().aggregate_evaluate(server_round, sorted(replies, key=_partition))


def _partition(reply):
    return reply.content["metrics"]["partition"]


@server.main()
def main(grid: Grid, context: Context) -> None:
    """Train, and write the model and the accuracy of each round."""
    result = InOrder().start(
        grid=grid,
        initial_arrays=ArrayRecord([np.zeros((5, 3))]),
        train_config=ConfigRecord({"lr": context.run_config["learning-rate"]}),
        num_rounds=context.run_config["num-server-rounds"],
    )
    accuracies = [metrics["accuracy"] for metrics in result.evaluate_metrics_clientapp.values()]
    said = {"model": result.arrays.to_numpy_ndarrays()[0].tolist(), "accuracies": accuracies}
    (Path(context.run_config["output"]) / "result.json").write_text(json.dumps(said))
