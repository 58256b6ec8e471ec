"""quickstart: a Flower / PyTorch app."""

import json
from pathlib import Path

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from quickstart.task import Net

app = ServerApp()


class InOrder(FedAvg):
    """FedAvg that adds up in the order of the partitions: floating-point sums depend on the order, and the network's is chance."""

    def aggregate_train(self, server_round, replies):
        return super().aggregate_train(server_round, sorted(replies, key=_partition))

    def aggregate_evaluate(self, server_round, replies):
        return super().aggregate_evaluate(server_round, sorted(replies, key=_partition))


def _partition(reply):
    return reply.content["metrics"]["partition"]


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Train the network and save what came of it."""
    torch.manual_seed(0)
    arrays = ArrayRecord(Net().state_dict())
    strategy = InOrder(fraction_evaluate=context.run_config["fraction-evaluate"])
    result = strategy.start(
        grid=grid,
        initial_arrays=arrays,
        train_config=ConfigRecord({"lr": context.run_config["learning-rate"]}),
        num_rounds=context.run_config["num-server-rounds"],
    )
    output = Path(context.run_config["output"])
    model = {name: array.numpy() for name, array in result.arrays.items()}
    np.savez(output / "model.npz", **model)
    metrics = {"train": result.train_metrics_clientapp, "evaluate": result.evaluate_metrics_clientapp}
    plain = {kind: {str(n): dict(record) for n, record in rounds.items()} for kind, rounds in metrics.items()}
    (output / "metrics.json").write_text(json.dumps(plain, sort_keys=True))
