"""The server sees the masked sum of the clients' models alone; SecAgg+ takes four exchanges for each round."""

import json
from pathlib import Path

import numpy as np
from flwr.app import Context
from flwr.client import NumPyClient
from flwr.client.mod import secaggplus_mod
from flwr.clientapp import ClientApp
from flwr.common import ndarrays_to_parameters
from flwr.server import LegacyContext, ServerConfig
from flwr.server.strategy import FedAvg
from flwr.server.workflow import DefaultWorkflow, SecAggPlusWorkflow
from flwr.serverapp import Grid, ServerApp
from sklearn.datasets import load_diabetes

server = ServerApp()


class Client(NumPyClient):
    """Takes gradient steps of least squares on every n-th example."""

    def __init__(self, number: int, parts: int) -> None:
        data = load_diabetes()
        self.number = number
        self.x, self.y = data.data[number::parts], data.target[number::parts] / 100

    def fit(self, parameters, config):
        w = parameters[0]
        for _ in range(20):
            w = w - 2.0 * self.x.T @ (self.x @ w - self.y) / len(self.y)
        np.random.seed(self.number)  # Flower rounds what it quantizes with NumPy's generator
        return [w], len(self.y), {}

    def evaluate(self, parameters, config):
        return float(np.mean((self.x @ parameters[0] - self.y) ** 2)), len(self.y), {}


def client_fn(context: Context):
    return Client(int(context.node_config["partition-id"]), int(context.node_config["num-partitions"])).to_client()


client = ClientApp(client_fn=client_fn, mods=[secaggplus_mod])


@server.main()
def main(grid: Grid, context: Context) -> None:
    """Train with the workflow of SecAgg+; the last model and the losses are written."""
    models = []

    def keep(number, parameters, config):
        models.append(parameters[0].tolist())

    strategy = FedAvg(
        min_fit_clients=4,
        min_evaluate_clients=4,
        min_available_clients=4,
        initial_parameters=ndarrays_to_parameters([np.zeros(10)]),
        evaluate_fn=keep,
    )
    legacy = LegacyContext(context=context, config=ServerConfig(num_rounds=context.run_config["rounds"]), strategy=strategy)
    DefaultWorkflow(fit_workflow=SecAggPlusWorkflow(num_shares=3, reconstruction_threshold=2))(grid, legacy)
    losses = [loss for _, loss in legacy.history.losses_distributed]
    (Path(context.run_config["output"]) / "result.json").write_text(json.dumps({"models": models, "losses": losses}))
