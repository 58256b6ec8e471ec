"""Where a Flower app runs: in this process (`InlineGrid`) or on Ray actors (`RayGrid`). Only here are Flower's private parts used."""

from __future__ import annotations

import contextlib
import math
import os
import secrets
import shutil
import signal
import tempfile
import threading
import time
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

from flwr.app import ArrayRecord, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from fedsam.actor import ClientActor, Work, peak_memory, serve
from fedsam.config import ConfigError

REPLY_UNAVAILABLE = 4  # flwr's ErrorCode.REPLY_MESSAGE_UNAVAILABLE
RESTARTS = 3


class LocalGrid(Grid):
    """A population of clients on this machine or cluster: node ids are client numbers plus one, every client is always there.

    Args:
        clients: Population.
        run_config: Every client's `context.run_config`.
    """

    def __init__(self, clients: int, run_config: Mapping[str, Any]) -> None:
        self.clients = clients
        self.run_config = dict(run_config)
        self._loads: Sequence[int] = [1] * clients
        self._numbers = count()
        self._replies: dict[str, Message] = {}
        # Messages ask for these when they are made; the server's own node id is 0, which no client has.
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 0, 0
        self._run = Run.create_empty(1)

    def set_run(self, run: Run) -> None:
        """Set the run that messages belong to."""
        self._run = run
        TaskIdentity.run_id = run.run_id

    @property
    def run(self) -> Run:
        """The run that messages belong to."""
        return self._run

    @property
    def nodes_by_partition(self) -> Mapping[int, int]:
        """Node id of each client number."""
        return {partition: partition + 1 for partition in range(self.clients)}

    def weigh(self, loads: Sequence[int]) -> None:
        """Say how much work each client is, in any unit (examples): the longest shards are then dealt first. Changes no result."""
        self._loads = loads

    def get_node_ids(self) -> Iterable[int]:
        """All node ids, ascending."""
        return range(1, self.clients + 1)

    def create_message(self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None) -> Message:
        """A message to a node."""
        return Message(content, dst_node_id=dst_node_id, message_type=message_type, ttl=ttl, group_id=group_id)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Run messages to the end and keep their replies; the ids to pull them by."""
        sent = list(messages)
        replies = self.send_and_receive(sent)
        self._replies |= {reply.metadata.reply_to_message_id: reply for reply in replies}
        return [message.metadata.message_id for message in sent]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The replies kept for these ids, each handed out once."""
        return [self._replies.pop(key) for key in message_ids if key in self._replies]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """The replies, in the order of the messages; those that are not there after `timeout` seconds are missing."""
        sent = list(messages)
        for message in sent:
            if not 1 <= message.metadata.dst_node_id <= self.clients:
                raise ValueError(f"no node has id {message.metadata.dst_node_id}; nodes are 1 to {self.clients}")
            message.metadata.__dict__["_message_id"] = str(next(self._numbers))
        return self._exchange(sent, None if timeout == math.inf else timeout) if sent else []

    @abstractmethod
    def _exchange(self, messages: Sequence[Message], timeout: float | None) -> list[Message]:
        """The replies to messages that carry their ids, in order."""

    def _node_config(self, message: Message) -> dict[str, Any]:
        return {"partition-id": message.metadata.dst_node_id - 1, "num-partitions": self.clients}

    def peak_memory(self) -> tuple[int, int | None]:
        """Peak resident bytes of the largest process, peak GPU bytes of the largest actor."""
        return peak_memory()


class InlineGrid(LocalGrid):
    """Runs clients in this process, one after another: a breakpoint in a client works.

    Args:
        threads: Torch threads while clients run; an actor with as many computes the same bits.
    """

    def __init__(self, load: Callable[[], ClientApp], clients: int, run_config: Mapping[str, Any], threads: int = 1) -> None:
        super().__init__(clients, run_config)
        self._app, self._threads = load(), threads
        self._states: dict[int, RecordDict] = {}

    def _exchange(self, messages: Sequence[Message], timeout: float | None) -> list[Message]:
        import torch

        replies, before = [], torch.get_num_threads()
        torch.set_num_threads(self._threads)
        for message in messages:
            node = message.metadata.dst_node_id
            work = Work(message.metadata, {}, self._node_config(message), self.run_config)
            reply, self._states[node] = serve(self._app, work, message.content, self._states.get(node, RecordDict()))
            replies.append(reply)
        torch.set_num_threads(before)
        return replies


class ActorPool:
    """Ray actors that serve clients; they outlive a run, so that the runs of a sweep start at once.

    Args:
        load: Gives the ClientApp, in the actor's process; called with the supplies as keywords.
        actors: How many.
        cpus: Of each, also its torch threads.
        gpus: Share of a GPU of each; fractions allowed.
    """

    def __init__(self, load: Callable[..., ClientApp], *, actors: int, cpus: int = 1, gpus: float = 0.0) -> None:
        import ray

        self._load, self._cpus = load, cpus
        self._supplies: dict[str, Any] = {}
        self._gpus, self._stopped = gpus, False
        self._kind = ray.remote(num_cpus=cpus, num_gpus=gpus)(ClientActor)
        self._actors: set[Any] = set()
        self.idle: deque[Any] = deque(self._start() for _ in range(actors))
        self.size = actors

    def split(self, number: int) -> list[ActorPool]:
        """As many pools, among which the actors of this one are dealt; none is left here."""
        parts = [ActorPool(self._load, actors=0, cpus=self._cpus, gpus=self._gpus) for _ in range(number)]
        for turn in range(self.size):
            part = parts[turn % number]
            part._actors.add(self.idle[0])
            part.idle.append(self.idle.popleft())
            part.size += 1
        self._actors, self.size = set(), 0
        return parts

    def stop(self) -> None:
        """End the actors, from any thread: whoever waits for them, or asks them from now on, is interrupted."""
        import ray

        self._stopped = True
        for actor in tuple(self._actors):
            ray.kill(actor)

    def supply(self, **supplies: Any) -> None:
        """Give the actors what `load` needs, and have them load the app with it.

        Args:
            supplies: Things, each put into the object store once for all actors of a node, or references to what is there already.
        """
        import ray

        self._supplies = {name: thing if isinstance(thing, ray.ObjectRef) else ray.put(thing) for name, thing in supplies.items()}
        for actor in self.idle:
            actor.supply.remote(self._supplies)

    def ready(self) -> list[int]:
        """Wait until every actor is up; their process ids."""
        import ray

        return list(ray.get([actor.process.remote() for actor in self.idle]))

    def replace(self, actor: Any) -> None:
        """Put a new actor in the place of one that died or hangs.

        Raises:
            KeyboardInterrupt: The pool was stopped.
        """
        import ray

        if self._stopped:
            raise KeyboardInterrupt
        ray.kill(actor)
        self._actors.discard(actor)
        self.idle.append(self._start())

    def peak_memory(self) -> tuple[int, int | None]:
        """Over this process and all actors: largest peak resident bytes, largest peak GPU bytes."""
        import ray

        peaks = [peak_memory(), *ray.get([actor.peak_memory.remote() for actor in self.idle])]
        devices = [device for _, device in peaks if device is not None]
        return max(rss for rss, _ in peaks), max(devices, default=None)

    def _start(self) -> Any:
        actor = self._kind.remote(self._load, self._cpus, self._supplies)
        self._actors.add(actor)
        return actor


class RayGrid(LocalGrid):
    """Deals messages to Ray actors in shards of fixed size, in order; a free actor takes the next shard.

    Results depend neither on the number of actors nor on which was fast. An array record shared by several messages is stored once.
    Client states stay in the object store, owned by this process, and reach an actor only when their client runs.

    Args:
        shard_size: Messages that an actor is dealt at once; default: a sixteenth of the messages of an exchange, at most 32.
    """

    def __init__(self, pool: ActorPool, clients: int, run_config: Mapping[str, Any], shard_size: int | None = None) -> None:
        super().__init__(clients, run_config)
        self._pool = pool
        self._shard_size = shard_size
        self._states: dict[int, Any] = {}

    def _exchange(self, messages: Sequence[Message], timeout: float | None) -> list[Message]:
        import ray

        shared = self._store(messages)
        size = self._shard_size or min(max(1, len(messages) // 16), 32)
        shards = [messages[start : start + size] for start in range(0, len(messages), size)]
        replies: list[list[Message]] = [[] for _ in shards]
        longest = sorted(range(len(shards)), key=lambda i: -sum(self._loads[m.metadata.dst_node_id - 1] for m in shards[i]))
        waiting, losses = deque(longest), [0] * len(shards)
        running: dict[Any, tuple[int, Any, list[Any]]] = {}
        deadline = None if timeout is None else time.monotonic() + timeout
        while waiting or running:
            while waiting and self._pool.idle:
                actor, shard = self._pool.idle.popleft(), waiting.popleft()
                refs = actor.run.options(num_returns=1 + len(shards[shard])).remote([self._work(m, shared) for m in shards[shard]])
                running[refs[-1]] = (shard, actor, refs)
            try:
                left = None if deadline is None else max(0.0, deadline - time.monotonic())
                ready, _ = ray.wait(list(running), num_returns=1, timeout=left)
                if not ready:
                    break
                replies_of, stateful = ray.get(ready[0])
            except ray.exceptions.RayActorError as error:
                shard, actor, _ = running.pop(ready[0])
                self._pool.replace(actor)
                losses[shard] += 1
                if losses[shard] <= RESTARTS:
                    waiting.appendleft(shard)
                    continue
                reason = f"its actor died {losses[shard]} times: {error}"
                replies[shard] = [Message(Error(REPLY_UNAVAILABLE, reason), reply_to=m) for m in shards[shard]]
                continue
            except BaseException:
                self._abandon(running)
                raise
            shard, actor, refs = running.pop(ready[0])
            self._pool.idle.append(actor)
            replies[shard] = replies_of
            for message, ref, kept in zip(shards[shard], refs[:-1], stateful, strict=True):
                if kept:
                    self._states[message.metadata.dst_node_id] = ref
        self._abandon(running)
        return [reply for shard_replies in replies for reply in shard_replies]

    def _abandon(self, running: Mapping[Any, tuple[int, Any, list[Any]]]) -> None:
        """Replace the actors that are still at work: what they do is of no use any more."""
        for _, actor, _ in running.values():
            self._pool.replace(actor)

    def _store(self, messages: Sequence[Message]) -> dict[int, Any]:
        """Each distinct array record once in the object store, by the record's identity."""
        import ray

        records = {id(r): r for m in messages for r in m.content.values() if isinstance(r, ArrayRecord)}
        return {key: ray.put(record) for key, record in records.items()}

    def _work(self, message: Message, shared: Mapping[int, Any]) -> Work:
        records = {key: shared.get(id(record), record) for key, record in message.content.items()}
        state = self._states.get(message.metadata.dst_node_id)
        return Work(message.metadata, records, self._node_config(message), self.run_config, state)

    def peak_memory(self) -> tuple[int, int | None]:
        """As `LocalGrid.peak_memory`, over this process and the actors."""
        return self._pool.peak_memory()


@contextmanager
def ray_session(
    address: str | None = None, *, cpus: int | None = None, gpus: int | None = None, store: int | None = None
) -> Iterator[Mapping[str, float]]:
    """Ray for the time of a block; gives its resources (`CPU`, `GPU`).

    Without an address a private Ray is started and stopped: no dashboard, own temporary folder and namespace. Ray listens on all
    interfaces whatever address it is given, so token authentication keeps others out; the token file is readable by its owner only.

    Args:
        store: Bytes of a private Ray's object store, beyond which objects go to disk; default: Ray's, 30 % of the memory.

    Raises:
        ConfigError: There is no Ray at `address`.
    """
    ray = _import_ray(private=address is None)
    quiet = {"namespace": "fedsam", "logging_level": "error"}
    if address is not None:
        try:
            with _own_signals():
                ray.init(address=address, **quiet)
        except ConnectionError as error:
            raise ConfigError(f"compute.ray_address: {address!r} is not allowed: no Ray answers there ({error})") from None
        try:
            yield ray.cluster_resources()
        finally:
            ray.shutdown()
        return
    # Ray's socket paths add about 64 characters, and a socket path may have 107.
    folder = tempfile.mkdtemp(prefix="fedsam-ray-", dir=None if len(tempfile.gettempdir()) < 24 else "/tmp")
    private: dict[str, Any] = {"num_cpus": cpus, "num_gpus": gpus, "object_store_memory": store, "include_dashboard": False}
    # Ray deletes a spill file once all objects in it are gone: one object a file, or former client states stay on disk with present ones.
    private |= {"_temp_dir": folder, "_system_config": {"max_fused_object_count": 1}}
    try:
        with _own_signals():
            ray.init(**private, **quiet)
        yield ray.cluster_resources()
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _own_signals() -> Iterator[None]:
    """Keep this process's SIGTERM handler, which Ray replaces by one that exits at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, handler)


def _import_ray(*, private: bool) -> Any:
    """The module ray, for a private Ray in token mode; it reads these variables once, when it is imported.

    Raises:
        RuntimeError: It was imported before, without authentication.
    """
    token = Path.home() / ".cache" / "fedsam" / "ray-token"
    if private and not {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & set(os.environ):
        _make_token(token)
        os.environ["RAY_AUTH_TOKEN_PATH"] = str(token)
    if private:
        os.environ["RAY_AUTH_MODE"] = "token"
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray
    from ray._private.authentication.authentication_utils import is_token_auth_enabled

    if private and not is_token_auth_enabled():
        raise RuntimeError(
            "ray was imported without authentication: set RAY_AUTH_MODE=token before, or import ray after fedsam's first run"
        )
    return ray


def _make_token(path: Path) -> None:
    """A secret that only this user can read, made once; linking it into place lets simultaneous makers agree on one."""
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, draft = tempfile.mkstemp(dir=path.parent)  # mode 0600
    with os.fdopen(descriptor, "w") as file:
        file.write(secrets.token_hex(32))
    with contextlib.suppress(FileExistsError):
        os.link(draft, path)
    os.unlink(draft)


def cores() -> int:
    """Physical cores that this process may use."""
    usable = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    siblings = set()
    for cpu in usable:
        file = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        siblings.add(file.read_text() if file.exists() else str(cpu))
    return len(siblings)
