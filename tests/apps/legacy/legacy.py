"""An app with Flower's older interfaces, which sends a message at a time from a thread for each client."""

import json
import time
from pathlib import Path

import numpy as np
from flwr.app import Context
from flwr.client import NumPyClient
from flwr.clientapp import ClientApp
from flwr.common import ndarrays_to_parameters
from flwr.server import ServerAppComponents, ServerConfig
from flwr.server.strategy import FedAvg
from flwr.serverapp import ServerApp


class Client(NumPyClient):
    """Adds its number to every weight, which takes some seconds."""

    def __init__(self, number: int, seconds: int) -> None:
        self.number, self.seconds = number, seconds

    def fit(self, parameters, config):
        time.sleep(self.seconds)
        return [weights + self.number for weights in parameters], 1, {"number": self.number}

    def evaluate(self, parameters, config):
        return float(parameters[0].mean()), 1, {"number": self.number}


def client_fn(context: Context):
    return Client(int(context.node_config["partition-id"]), int(context.run_config["seconds"])).to_client()


def server_fn(context: Context):
    log = Path(context.run_config["output"]) / "numbers.jsonl"

    def numbers(metrics):
        seen = sorted(values["number"] for _, values in metrics)
        with log.open("a") as file:
            file.write(json.dumps(seen) + "\n")
        return {}

    strategy = FedAvg(
        initial_parameters=ndarrays_to_parameters([np.zeros(3)]),
        fit_metrics_aggregation_fn=numbers,
        evaluate_metrics_aggregation_fn=numbers,
    )
    return ServerAppComponents(strategy=strategy, config=ServerConfig(num_rounds=int(context.run_config["num-server-rounds"])))


client = ClientApp(client_fn=client_fn)
server = ServerApp(server_fn=server_fn)
