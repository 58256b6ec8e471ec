"""Replays golden cases through the real code: `python -m tests.conformance PATH... [--only NAME]`.

A PATH is a JSON file or a folder of them. One line per case: PASS or FAIL, file, case, largest deviation in units of the case's
tolerance and where it occurs; the last line counts. Exit status: 0, all passed; 1, a case failed; 2, a method or schema was not
known, a file could not be read, or nothing matched (the other cases are run all the same).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from tests.golden_replay import optimizers, sharpness, strategies
from tests.golden_replay.replay import Case, Replay, Unknown

REPLAY: Mapping[str, Replay] = {
    "golden-optimizer/1": optimizers.replay,
    "fl-golden/1": strategies.replay,
    "golden-sharpness/1": sharpness.replay,
}


class Golden(NamedTuple):
    """One case of one file; `case` is None when the file as a whole cannot be replayed, and `why` says so."""

    path: Path
    document: Case
    case: Case | None
    why: str = ""

    @property
    def id(self) -> str:
        """The case's name in its file."""
        return str((self.case or {}).get("id") or (self.case or {}).get("name") or "-")

    @property
    def names(self) -> set[str]:
        """What `--only` may call it: its file, its method or itself."""
        return {self.path.stem, str(self.document.get("method")), str(self.document.get("algorithm")), self.id}


class Outcome(NamedTuple):
    """The verdict on one case: PASS, FAIL or UNKNOWN, and the reason."""

    verdict: str
    reason: str


def collect(paths: Sequence[Path]) -> Iterator[Golden]:
    """Every case in the given files and folders, in order of file names."""
    for path in paths:
        for file in sorted(path.rglob("*.json")) if path.is_dir() else [path]:
            yield from _read(file)


def _read(path: Path) -> Iterator[Golden]:
    try:
        document: Any = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        yield Golden(path, {}, None, f"cannot be read: {error}")
        return
    if not isinstance(document, dict) or document.get("schema") not in REPLAY:
        found = document.get("schema") if isinstance(document, dict) else None
        yield Golden(path, {}, None, f"schema {found!r} is not known; known: {', '.join(REPLAY)}")
        return
    for case in document["cases"]:
        yield Golden(path, document, case)


def run(golden: Golden) -> Outcome:
    """The verdict on one case."""
    if golden.case is None:
        return Outcome("UNKNOWN", golden.why)
    try:
        what, worst = max(REPLAY[golden.document["schema"]](golden.document, golden.case), key=lambda pair: pair[1])
    except Unknown as error:
        return Outcome("UNKNOWN", str(error))
    except Exception as error:  # whatever goes wrong in a case fails this case, and the others still run
        return Outcome("FAIL", f"{type(error).__name__}: {error}")
    return Outcome("PASS" if worst <= 1 else "FAIL", f"{worst:.3g} ({what})")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.conformance", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="JSON file, or folder of JSON files")
    parser.add_argument("--only", metavar="NAME", help="only this method, file (without .json) or case")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    counts = {"PASS": 0, "FAIL": 0, "UNKNOWN": 0}
    for golden in collect(options.paths):
        if options.only and options.only not in golden.names:
            continue
        outcome = run(golden)
        counts[outcome.verdict] += 1
        print(f"{outcome.verdict} {golden.path} {golden.id} {outcome.reason}", flush=True)
    print(f"{counts['PASS']} passed, {counts['FAIL']} failed" + (f", {counts['UNKNOWN']} unknown" if counts["UNKNOWN"] else ""))
    if counts["UNKNOWN"] or not any(counts.values()):
        return 2
    return 1 if counts["FAIL"] else 0


if __name__ == "__main__":
    sys.exit(main())
