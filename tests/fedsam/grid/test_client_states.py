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
