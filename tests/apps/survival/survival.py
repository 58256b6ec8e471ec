"""One exchange with a strategy that is a class of the app's own: it averages nothing, and there is no model."""

import json
from pathlib import Path

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from sklearn.datasets import load_diabetes

client = ClientApp()
server = ServerApp()


@client.train()
def train(message: Message, context: Context) -> Message:
    """The client's times, and whether an event ended each: here, the diabetes data's progression and sex."""
    data, mine = load_diabetes(), slice(context.node_config["partition-id"], None, context.node_config["num-partitions"])
    arrays = ArrayRecord([data.target[mine], (data.data[mine, 1] > 0).astype(np.int64)])
    return Message(RecordDict({"arrays": arrays, "metrics": MetricRecord({"num-examples": len(data.target[mine])})}), reply_to=message)


class KaplanMeier(FedAvg):
    """Fits the curve to the times of all clients.

    Attributes:
        curve: Times, and the fraction that has had no event by then.
    """

    curve: tuple[list[float], list[float]] = ([], [])

    def configure_evaluate(self, server_round, arrays, config, grid):
        return []

    def aggregate_train(self, server_round, replies):
        parts = [reply.content["arrays"].to_numpy_ndarrays() for reply in replies]
        times, events = (np.concatenate([part[i] for part in parts]) for i in (0, 1))
        moments = np.unique(times)
        at_risk = np.array([(times >= moment).sum() for moment in moments])
        ended = np.array([events[times == moment].sum() for moment in moments])
        self.curve = (moments.tolist(), np.cumprod(1 - ended / at_risk).tolist())
        return None, None


@server.main()
def main(grid: Grid, context: Context) -> None:
    """Have all clients send their times once, and write the curve."""
    strategy = KaplanMeier(min_available_nodes=4)
    strategy.start(grid=grid, initial_arrays=ArrayRecord([np.zeros(1)]), train_config=ConfigRecord(), num_rounds=1)
    (Path(context.run_config["output"]) / "result.json").write_text(json.dumps(strategy.curve))
