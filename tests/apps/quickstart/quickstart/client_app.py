"""quickstart: a Flower / PyTorch app."""

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from quickstart.task import Net, load_data
from quickstart.task import test as test_fn
from quickstart.task import train as train_fn

app = ClientApp()


@app.train()
def train(msg: Message, context: Context):
    """Train the model on local data."""
    partition_id = context.node_config["partition-id"]
    server_round = msg.content["config"]["server-round"]
    model = Net()
    model.load_state_dict(msg.content["arrays"].to_torch_state_dict())
    trainloader, _ = load_data(
        partition_id, context.node_config["num-partitions"], context.run_config["batch-size"], seed=1000 * server_round + partition_id
    )
    train_loss = train_fn(model, trainloader, context.run_config["local-epochs"], context.run_config["learning-rate"])
    # Kept from round to round.
    rounds = context.state["rounds"]["trained"] + 1 if "rounds" in context.state else 1
    context.state["rounds"] = MetricRecord({"trained": rounds})
    metrics = {"train_loss": train_loss, "rounds": rounds, "partition": partition_id, "num-examples": len(trainloader.dataset)}
    content = RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": MetricRecord(metrics)})
    return Message(content=content, reply_to=msg)


@app.evaluate()
def evaluate(msg: Message, context: Context):
    """Evaluate the model on local data."""
    partition_id = context.node_config["partition-id"]
    model = Net()
    model.load_state_dict(msg.content["arrays"].to_torch_state_dict())
    _, testloader = load_data(partition_id, context.node_config["num-partitions"], context.run_config["batch-size"], seed=0)
    with torch.inference_mode():
        loss, accuracy = test_fn(model, testloader)
    metrics = {"eval_loss": loss, "eval_acc": accuracy, "partition": partition_id, "num-examples": len(testloader.dataset)}
    return Message(content=RecordDict({"metrics": MetricRecord(metrics)}), reply_to=msg)
