"""Clients have different features of the same examples; the server has the labels and pushes gradients, whose replies nobody pulls."""

import json
import threading
from pathlib import Path

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from sklearn.datasets import load_breast_cancer
from sklearn.preprocessing import scale
from torch import nn
from torch.nn import functional as F

SIZE = 4  # of an embedding
NODES = 2

client = ClientApp()
server = ServerApp()


def _embeddings(context: Context):
    """The client's model, as its state has it, and the embeddings (N, SIZE) of its features."""
    number, parts = context.node_config["partition-id"], context.node_config["num-partitions"]
    features = torch.from_numpy(scale(load_breast_cancer().data)[:, number::parts]).float()
    torch.manual_seed(number)
    model = nn.Linear(features.shape[1], SIZE)
    if "model" in context.state:
        model.load_state_dict(context.state["model"].to_torch_state_dict())
    return model, model(features)


@client.query("generate_embeddings")
def generate_embeddings(message: Message, context: Context) -> Message:
    _, embeddings = _embeddings(context)
    content = {"embeddings": ArrayRecord([embeddings.detach().numpy()])}
    position = MetricRecord({"position": int(context.node_config["partition-id"])})
    return Message(RecordDict({**content, "position": position}), reply_to=message)


@client.train("apply_gradients")
def apply_gradients(message: Message, context: Context) -> Message:
    model, embeddings = _embeddings(context)
    embeddings.backward(torch.from_numpy(message.content["gradients"].to_numpy_ndarrays()[0]))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter -= context.run_config["learning-rate"] * parameter.grad
    context.state["model"] = ArrayRecord(model.state_dict())
    return Message(RecordDict(), reply_to=message)


@server.main()
def main(grid: Grid, context: Context) -> None:
    """Train the head, and the clients' models by their gradients; the losses of all rounds and the last accuracy are written."""
    while len(nodes := list(grid.get_node_ids())) < NODES:
        threading.Event().wait(0.1)
    labels = torch.from_numpy(load_breast_cancer().target).float()
    torch.manual_seed(99)
    head = nn.Linear(SIZE * NODES, 1)
    losses, accuracy = [], 0.0
    for number in range(1, context.run_config["rounds"] + 1):
        asked = [Message(RecordDict(), dst_node_id=n, message_type="query.generate_embeddings", group_id=str(number)) for n in nodes]
        replies = sorted(grid.send_and_receive(asked), key=lambda reply: reply.content["position"]["position"])
        parts = [torch.from_numpy(reply.content["embeddings"].to_numpy_ndarrays()[0]).requires_grad_() for reply in replies]
        scores = head(F.relu(torch.cat(parts, 1)))[:, 0]
        loss = F.binary_cross_entropy_with_logits(scores, labels)
        head.zero_grad()
        loss.backward()
        with torch.no_grad():
            for parameter in head.parameters():
                parameter -= context.run_config["learning-rate"] * parameter.grad
        pushed = [
            Message(
                RecordDict({"gradients": ArrayRecord([part.grad.numpy()])}),
                dst_node_id=reply.metadata.src_node_id,
                message_type="train.apply_gradients",
                group_id=str(number),
            )
            for part, reply in zip(parts, replies, strict=True)
        ]
        grid.push_messages(pushed)
        losses.append(loss.item())
        accuracy = ((scores > 0) == (labels > 0)).float().mean().item()
    (Path(context.run_config["output"]) / "result.json").write_text(json.dumps({"losses": losses, "accuracy": accuracy}))
