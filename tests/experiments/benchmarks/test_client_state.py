"""States survive spilling: more of them than the object store holds."""

import pytest

from experiments.benchmarks.client_state import Setting, measure
from tests.support.shared_ray import SharedRay


@pytest.mark.slow
def test_states_come_back_from_disk_as_they_were_kept(shared_ray: SharedRay) -> None:
    shared_ray.stop()  # a process has one
    setting = Setting(clients=30, size=10**6, vectors=2, per_round=10, visit=20, again=10, actors=1, store=80 * 2**20)
    assert setting.live > setting.store
    found = measure(setting)
    assert found.wrong == 0
    assert found.spilled > setting.live - setting.store
    assert found.restored > 0
    assert found.disk_end <= 1.01 * setting.live  # former states are gone
    assert found.disk_released < setting.state  # none of them: only the function that loads the app
    assert not found.folder_left


def test_second_visits_are_of_clients_visited_before() -> None:
    first, second, third, fourth = Setting(clients=9, size=1, vectors=1, per_round=4, visit=6, again=6, actors=1, store=0).cohorts()
    assert first + second == list(range(6))
    assert sorted(third + fourth) == list(range(6))
