"""Versions on the nodes of a cluster."""

import platform
import subprocess
import sys

from fedsam.grid.cluster import differences

HERE = {"Python": "3.11.9", "ray": "2.55.1", "fedsam": "0.1.0"}


def test_equal_versions_make_no_difference() -> None:
    assert differences({"10.0.0.2": dict(HERE), "10.0.0.3": dict(HERE)}, HERE) == []


def test_each_difference_is_named() -> None:
    nodes = {"10.0.0.3": HERE | {"Python": "3.12.1", "fedsam": "not installed"}, "10.0.0.2": HERE | {"ray": "2.50.0"}}
    assert differences(nodes, HERE) == [
        "10.0.0.2 has ray 2.50.0, not 2.55.1",
        "10.0.0.3 has Python 3.12.1, not 3.11.9",
        "10.0.0.3 has fedsam not installed, not 0.1.0",
    ]


def test_the_question_can_be_answered_where_fedsam_is_not_installed() -> None:
    code = """
import pickle, sys
from ray import cloudpickle
from fedsam.grid.cluster import _by_value
blob = cloudpickle.dumps(_by_value(("ray", "no-such-package")))
sys.modules |= dict.fromkeys([name for name in sys.modules if name.partition(".")[0] == "fedsam"])
print(pickle.loads(blob)())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert f"'Python': '{platform.python_version()}'" in done.stdout
    assert "'no-such-package': 'not installed'" in done.stdout
