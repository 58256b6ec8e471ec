"""What an app can ask of Flower beside training; what comes of it is written as JSON, in the order of partitions."""

import json
import threading
from pathlib import Path

from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

server = ServerApp()


def twice(message: Message, context: Context, call_next):
    """A mod: doubles the number in a message, and marks the reply."""
    message.content["sent"] = MetricRecord({"number": 2 * message.content["sent"]["number"]})
    reply = call_next(message, context)
    if not reply.has_error():
        reply.content["mod"] = ConfigRecord({"type": message.metadata.message_type})
    return reply


client = ClientApp(mods=[twice])


@client.lifespan()
def open_and_close(context: Context):
    opened = int(context.state["lifespan"]["opened"]) if "lifespan" in context.state else 0
    context.state["lifespan"] = MetricRecord({"opened": opened + 1})
    yield


def _answer(message: Message, context: Context, what: str) -> Message:
    calls = [*context.state["calls"]["names"], what] if "calls" in context.state else [what]
    context.state["calls"] = ConfigRecord({"names": calls})
    seen = {
        "what": what + str(context.run_config["suffix"]),
        "calls": calls,
        "partition": int(context.node_config["partition-id"]),
        "nodes": int(context.node_config["num-partitions"]),
        "deep": int(context.run_config["deep.number"]),
        "mine": context.node_id == message.metadata.dst_node_id,
    }
    numbers = {"number": message.content["sent"]["number"], "opened": context.state["lifespan"]["opened"]}
    return Message(RecordDict({"seen": ConfigRecord(seen), "got": MetricRecord(numbers)}), reply_to=message)


@client.train()
def train(message: Message, context: Context) -> Message:
    return _answer(message, context, "train")


@client.train("longer")
def train_longer(message: Message, context: Context) -> Message:
    return _answer(message, context, "train.longer")


@client.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    return _answer(message, context, "evaluate")


@client.query("who")
def who(message: Message, context: Context) -> Message:
    if context.node_config["partition-id"] == 1:
        raise ValueError("I will not say")
    return _answer(message, context, "query.who")


@server.lifespan()
def around(context: Context):
    context.state["around"] = ConfigRecord({"open": True})
    yield
    (Path(context.run_config["output"]) / "closed").touch()


@server.main()
def main(grid: Grid, context: Context) -> None:
    """Send every kind of message to every node, then push one and pull its reply."""
    while len(nodes := list(grid.get_node_ids())) < 3:  # Flower's runtime starts this before its nodes
        threading.Event().wait(0.1)
    said = {"open": context.state["around"]["open"], "nodes": len(list(grid.get_nodes()))}
    for number, kind in enumerate(["train", "train.longer", "evaluate", "query.who", "query.nobody", "train"], 1):
        said[f"{number} {kind}"] = sorted(_plain(reply) for reply in grid.send_and_receive(_messages(nodes, kind, number)))
    ids = list(grid.push_messages(_messages(nodes, "evaluate", 9)))
    pulled = []
    while len(pulled) < len(ids):
        pulled += grid.pull_messages([key for key in ids if key not in {reply.metadata.reply_to_message_id for reply in pulled}])
        threading.Event().wait(0.1)
    said["pulled"] = sorted(_plain(reply) for reply in pulled)
    (Path(context.run_config["output"]) / "said.json").write_text(json.dumps(said, indent=1, sort_keys=True))


def _messages(nodes: list[int], kind: str, number: int) -> list[Message]:
    content = [RecordDict({"sent": MetricRecord({"number": number})}) for _ in nodes]
    return [Message(c, dst_node_id=n, message_type=kind, group_id=str(number)) for c, n in zip(content, nodes, strict=True)]


def _plain(reply: Message) -> str:
    if reply.has_error():
        return json.dumps({"error": reply.error.code, "type": reply.metadata.message_type, "group": reply.metadata.group_id})
    plain = {key: dict(record) for key, record in reply.content.items()}
    return json.dumps({**plain, "type": reply.metadata.message_type, "group": reply.metadata.group_id}, sort_keys=True)
