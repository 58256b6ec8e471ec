"""Where the clients' states are."""

from __future__ import annotations

import pytest

from fedsam.grid.client_states import ClientStates


def test_the_latest_state_of_each_client_counts() -> None:
    states = ClientStates(str.upper)
    assert states.get(1) is None
    states.update([1, 2], ["a", "b"], [True, False], away=False)
    states.update([2, 3], ["c", "d"], [True, True], away=True)
    states.update([3], ["e"], [False], away=True)
    assert [states.get(node) for node in (1, 2, 3, 4)] == ["a", "C", "D", None]


def test_a_call_one_of_whose_states_is_lost_leaves_all_as_they_were() -> None:
    def copy(state: str) -> str:
        if state == "lost":
            raise OSError
        return state

    states = ClientStates(copy)
    states.update([1, 2], ["a", "b"], [True, True], away=True)
    with pytest.raises(OSError):
        states.update([1, 2], ["c", "lost"], [True, True], away=True)
    assert [states.get(node) for node in (1, 2)] == ["a", "b"]
    with pytest.raises(ValueError, match="shorter"):
        states.update([1, 2], ["c"], [True, True], away=False)


def test_a_mark_keeps_the_states_of_then_until_they_are_saved() -> None:
    loaded = list[str]()

    def load(state: str) -> str:
        loaded.append(state)
        return state.upper()

    states = ClientStates(load=load, store=lambda state: f"stored {state}")  # type: ignore[arg-type,return-value]
    states.update([1, 2], ["a", "b"], [True, True])
    assert list(states.unsaved()) == []
    states.mark()
    states.update([2, 3], ["c", "d"], [True, True])
    states.update([2], ["e"], [True])
    assert list(states.unsaved()) == [(1, "A"), (2, "B")]
    assert loaded == ["a", "b"]
    states.saved()
    assert list(states.unsaved()) == []
    states.mark()
    assert list(states.unsaved()) == [(2, "E"), (3, "D")]
    states.restore([(1, "x")])  # type: ignore[list-item]
    assert dict(states) == {1: "stored x", 2: "e", 3: "d"}
