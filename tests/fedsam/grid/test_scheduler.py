"""Which shards go together and in which order, and what becomes of those that are late or lost: without Ray, threads or a clock."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest
from flwr.app import Message, RecordDict

from fedsam.grid import scheduler
from fedsam.grid.scheduler import PendingCall, Scheduler, Shard
from fedsam.messages import flower_private


def shard(*nodes: int, kind: str = "train") -> Shard:
    """A shard with a message to each node."""
    flower_private.set_current_run(flower_private.new_run())
    return Shard([Message(RecordDict(), dst_node_id=node, message_type=kind) for node in nodes])


def queue(*shards: Shard, seconds: Mapping[str, float] | None = None) -> Scheduler:
    """A scheduler with these shards, of whose kind the last took so long."""
    made = Scheduler()
    for kind, took in (seconds or {}).items():
        before = shard(1, kind=kind)
        before.done, before.seconds = [], took
        made.learn([before])
    made.add(shards)
    return made


def call(made: Scheduler, actor: str, *shards: Shard) -> PendingCall:
    """A call in progress: of these shards, or of those that are next."""
    started = PendingCall(shards or made.take(2), actor, [object()])
    made.start(started)
    return started


def answer(made: Scheduler, ended: PendingCall) -> None:
    """Messages stand for the replies to them."""
    made.finish(ended.key, [list(one.messages) for one in ended.shards], [1.0 for _ in ended.shards])


def rest(made: Scheduler) -> list[Shard]:
    """The shards that wait, in the order in which they go if nothing is known of how long they take."""
    order = []
    while found := made.take(1, 0.0):
        order += found
    return order


@pytest.mark.parametrize(
    ("seconds", "many"),
    [
        ({}, 1),
        ({"evaluate": 1e-3}, 1),
        ({"train": 30.0}, 1),
        ({"train": 0.12}, 2),  # a quarter of a second of them
        ({"train": 1e-2}, 6),  # three quarters of an even share
        ({"train": 4e-3}, 8),  # 30 milliseconds of them
        ({"train": 1e-3}, 9),
        ({"train": 0.0}, 9),
    ],
)
def test_short_shards_go_together_and_leave_the_other_actor_its_share(seconds: Mapping[str, float], many: int) -> None:
    shards = [shard(node) for node in range(1, 18)]
    made = queue(*shards, seconds=seconds)
    assert made.take(2) == shards[:many]
    assert rest(made) == shards[many:]


def test_very_short_shards_make_one_call_for_each_actor() -> None:
    made = queue(*(shard(node) for node in range(1, 17)), seconds={"train": 1e-3})
    call(made, "evaluates", Shard(shard(99).messages, background=True))
    assert [len(call(made, actor).shards) for actor in ("one", "other")] == [8, 8]


def test_calls_become_shorter_towards_the_end() -> None:
    made = queue(*(shard(node) for node in range(1, 18)), seconds={"train": 0.02})
    sizes = []
    while found := made.take(2):
        sizes.append(len(found))
    assert sizes == [6, 4, 3, 2, 1, 1]


def test_calls_are_shares_of_the_work_not_of_the_shards() -> None:
    sizes = [2000, 800, 500, 300, 250, 200, 150, 120, 100, 80]
    made = Scheduler()
    shards = [shard(node) for node in range(1, 11)]
    made.add(shards, sizes)
    for one in shards:
        one.done, one.seconds = [], one.work * 1e-4
    made.learn(shards)
    calls = [call(made, actor) for actor in ("one", "other", "other")]
    assert [[int(one.work) for one in its.shards] for its in calls] == [[2000], [800, 250], [500, 80]]


def test_shards_go_together_only_with_time_to_run_them_one_by_one() -> None:
    made = queue(*(shard(node) for node in range(1, 9)), seconds={"train": 0.0})
    assert len(made.take(2, scheduler.ACTOR_START_SECONDS - 1)) == 1
    assert len(made.take(2, scheduler.ACTOR_START_SECONDS)) == 4


def exchange(made: Scheduler, seconds: float, *, one_process: bool | None, each: float, kind: str = "train") -> None:
    """An exchange of four shards, which took so long, and each of its shards."""
    shards = [shard(node, kind=kind) for node in range(4)]
    for one in shards:
        one.done, one.seconds = [], each
    made.learn(shards, seconds, one_process)


def choice(made: Scheduler, number: int = 4, kind: str = "train") -> bool:
    """Whether one process is to serve so many shards, which do not stay."""
    shards = [shard(node, kind=kind) for node in range(number)]
    made.add(shards)
    chosen = made.choose_one_process(shards)
    made.abandon(shards)
    return chosen


@pytest.mark.parametrize(
    ("actors", "each", "alone", "chosen"),
    [
        ([9.0, 0.01], 0.002, [], True),  # in turn 8 ms
        ([9.0, 0.01], 0.00374, [], True),  # not known to be slower
        ([9.0, 0.01], 0.00376, [], False),  # in turn half as long again
        ([0.01], 0.002, [], False),  # the first exchange of actors is slower than what follows
        ([0.01] * 2, 0.002, [9.0, 0.011], True),  # a tenth slower, at half the CPU time
        ([0.01] * 2, 0.002, [9.0, 0.0112], False),
        ([0.01] * 2, 0.002, [9.0], True),  # the first exchange here is slower, too
        ([0.01] * 2, 0.002, [0.009, 0.02, 0.02, 0.02, 0.02, 0.02], False),  # of the last five
        ([0.2] * 2, 0.062, [], True),
        ([0.2] * 2, 0.063, [], False),  # more than a quarter of a second
    ],
)
def test_one_process_serves_all_of_an_exchange_whose_calls_take_longer_than_its_clients(
    actors: list[float], each: float, alone: list[float], *, chosen: bool
) -> None:
    made = Scheduler()
    for seconds in alone:
        exchange(made, seconds, one_process=True, each=each)
    for seconds in actors:
        exchange(made, seconds, one_process=False, each=each)
    assert choice(made) == chosen
    assert not choice(made, kind="evaluate")


@pytest.mark.parametrize("alone", [0.005, 0.02])
def test_the_slower_way_is_tried_from_time_to_time_whatever_other_kinds_there_are(alone: float) -> None:
    made, kinds = Scheduler(), ("train", "query")
    chosen = dict[str, list[bool]]({kind: [] for kind in kinds})
    for kind in kinds:
        for _ in range(2):
            exchange(made, 0.01, one_process=False, each=0.001, kind=kind)
            exchange(made, alone, one_process=True, each=0.001, kind=kind)
    for _ in range(2 * scheduler.CHOICES_PER_TRIAL):
        for kind in kinds:
            chosen[kind].append(choice(made, kind=kind))
            exchange(made, alone if chosen[kind][-1] else 0.01, one_process=chosen[kind][-1], each=0.001, kind=kind)
    assert [its.count(alone > 0.01) for its in chosen.values()] == [2, 2]


def test_what_is_known_goes_by_the_work() -> None:
    made = Scheduler()
    for _ in range(2):
        exchange(made, 0.01, one_process=False, each=0.001)
    assert choice(made, 40)
    assert not choice(made, 251)


def test_exchanges_for_which_neither_was_chosen_or_that_did_not_end_tell_of_neither() -> None:
    made = Scheduler()
    for _ in range(2):
        exchange(made, 0.01, one_process=None, each=0.001)
        made.learn([shard(1)], 0.01, one_process=False)
    exchange(made, 0.01, one_process=False, each=0.001)
    assert not choice(made)
    exchange(made, 0.01, one_process=False, each=0.001)
    assert choice(made)


def test_actors_serve_what_must_not_overtake_other_messages() -> None:
    made = Scheduler()
    for _ in range(2):
        exchange(made, 0.01, one_process=False, each=0.001)
    made.add([shard(7)])
    assert not choice(made)  # it waits
    pending = call(made, "a")
    assert not choice(made)
    answer(made, pending)
    made.add([Shard(shard(8).messages, background=True)])
    call(made, "a")
    assert choice(made)  # what goes in the background has no order


def test_shards_of_which_one_did_not_end_go_alone_the_next_time() -> None:
    quick, late = shard(1), shard(2)
    quick.done, quick.seconds = [], 1e-3
    made = queue(*(shard(node) for node in range(1, 9)))
    made.learn([quick, late])
    assert len(made.take(2)) == 1
    made.learn([quick])
    assert len(made.take(2)) == 4


def test_the_largest_go_first_and_equals_in_their_order() -> None:
    shards = [shard(node) for node in (1, 2, 3, 4)]
    made = Scheduler()
    made.add(shards, [5, 7, 5, 7])
    assert rest(made) == [shards[1], shards[3], shards[0], shards[2]]


def test_the_background_goes_after_all_others_and_one_by_one_whatever_its_nodes() -> None:
    behind, ahead = [shard(1), shard(1), shard(2)], [shard(1), shard(2)]
    for one in behind:
        one.background = True
    made = queue(*behind, ahead[0], seconds={"train": 0.0})
    assert call(made, "a").shards == ahead[:1]
    assert call(made, "b").shards == behind[:1]
    ahead[0].patience = 5.0
    assert made.patience() == 5.0  # the background waits, too
    made.add(ahead[1:])
    assert made.lose("b") == []
    assert rest(made) == [behind[0], ahead[1], *behind[1:]]


def test_no_node_has_messages_in_two_calls() -> None:
    first, second, third, other = shard(1, 2), shard(2, 3), shard(3), shard(4)
    made = queue(first, second, third, other, seconds={"train": 0.0})
    running = call(made, "a")
    assert running.shards == [first, other]  # second waits for the first, and third for the second
    assert made.take(2) == []
    answer(made, running)
    assert made.take(2) == [second]


def test_a_shard_that_was_lost_goes_alone_and_with_no_other() -> None:
    shards = [shard(node) for node in range(1, 18)]
    made = queue(*shards, seconds={"train": 1e-3})
    call(made, "a", *made.take(17))
    assert made.lose("a") == []
    assert made.take(2) == shards[:1]
    shards[2].losses = 1
    assert made.take(2) == [shards[1], *shards[3:10]]


def test_a_call_that_is_done_gives_its_shards_their_replies() -> None:
    shards = [shard(1, 2), shard(3)]
    made = queue(*shards, seconds={"train": 0.0})
    running = call(made, "a", *made.take(1))
    assert [one.replies for one in shards] == [None, None]
    answer(made, running)
    assert [one.replies for one in shards] == [one.messages for one in shards]
    assert [one.seconds for one in shards] == [1.0, 1.0]
    assert not made.calls


def test_late_calls_of_several_shards_run_again_in_order_and_one_of_each_actor_is_to_blame() -> None:
    shards = [shard(node) for node in range(1, 18)]
    made = queue(*shards[6:])
    running = [call(made, actor, *shards[first : first + 2]) for actor, first in (("a", 0), ("b", 4), ("a", 2))]
    assert made.late() == running[:2]
    assert [made.lose(late.actor) for late in made.late()] == [[], []]
    assert [one.losses for one in shards] == [1, 1, 0, 0, 1, 1] + [0] * 11
    assert not made.calls
    assert made.late() == []
    assert rest(made) == [shards[i] for i in (4, 5, 0, 1, 2, 3, *range(6, 17))]


def test_calls_of_several_shards_have_half_of_the_time() -> None:
    made = queue()
    call(made, "a", shard(1))
    assert (made.wait_seconds(8.0), made.late()) == (8.0, [])
    call(made, "b", shard(2), shard(3))
    assert made.wait_seconds(8.0) == 4.0


def test_a_message_that_takes_its_actors_along_is_given_up_alone() -> None:
    whole, other = shard(1, 2, 3), shard(4)
    made = queue(whole, other)
    call(made, "a")
    assert made.may_assign_ahead()
    assert made.lose("a") == []
    assert not made.may_assign_ahead()
    assert call(made, "b").shards == [whole]
    assert made.lose("b") == []
    assert [part.messages for part in whole.parts] == [[message] for message in whole.messages]
    assert all(part.single for part in whole.parts)
    one, two, three = whole.parts
    answer(made, call(made, "c"))
    assert one.replies == one.messages
    call(made, "c")
    assert made.lose("c") == []
    call(made, "d")
    assert made.lose("d") == [two]
    assert two.losses == scheduler.MAX_LOSSES + 1
    assert rest(made) == [three, other]
    assert whole.replies is None
    two.done, three.done = [], list(three.messages)
    assert whole.replies == [whole.messages[0], whole.messages[2]]


def test_what_waited_at_a_lost_actor_is_not_to_blame() -> None:
    first, second, elsewhere, waiting = shard(1), shard(2), shard(3), shard(4)
    made = queue(waiting)
    call(made, "a", first), call(made, "b", elsewhere), call(made, "a", second)
    assert made.lose("a") == []
    assert [one.losses for one in (first, second, elsewhere, waiting)] == [1, 0, 0, 0]
    assert [running.actor for running in made.calls.values()] == ["b"]
    assert rest(made) == [first, second, waiting]


def test_without_memory_all_calls_start_again() -> None:
    shards = [shard(node) for node in range(1, 6)]
    made = queue(*shards)
    for actor in ("a", "b", "a"):
        call(made, actor)
    made.restart()
    assert not made.calls
    assert rest(made) == shards
    assert [one.losses for one in shards] == [0] * 5


def test_of_abandoned_shards_nothing_is_left_and_others_go_on() -> None:
    shards = [shard(node) for node in range(1, 7)]
    shards[4].background = True
    made = queue(*shards[4:])
    for actor, one in zip("abac", shards[:4], strict=True):
        call(made, actor, one)
    shards[1].parts = [shard(2)]
    made.add(shards[1].parts)
    assert made.abandon([shards[0], shards[1], shards[4]]) == ["a", "b"]
    assert [running.actor for running in made.calls.values()] == ["c"]
    assert rest(made) == [shards[2], shards[5]]
    assert [one.losses for one in shards] == [0] * 6
    assert made.abandon([]) == []


def test_others_wait_for_a_late_call_as_long_as_its_patience_says() -> None:
    late, other, running = shard(1), shard(2), shard(3)
    made = queue()
    call(made, "a", late), call(made, "b", running)
    late.patience = 5.0
    assert made.patience() == math.inf  # nothing waits
    made.add([other])
    assert (made.patience(), made.overdue(4.0), made.overdue(5.0)) == (5.0, [], [late])


def test_the_parts_of_a_late_shard_are_as_late_as_it_is() -> None:
    whole = shard(1, 2)
    whole.expires, whole.patience = 7.0, 5.0
    made = queue(whole)
    for actor in "ab":
        call(made, actor)
        made.lose(actor)
    assert [(part.expires, part.patience, part.losses) for part in whole.parts] == [(7.0, 5.0, 2)] * 2
