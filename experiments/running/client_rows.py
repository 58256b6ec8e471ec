"""What is kept of a client's round."""

from __future__ import annotations

import math
from typing import Any

from fedsam.results.rows import ClientRow


def failed_row(client: int, what: str) -> ClientRow:
    """Of a client whose update was not used, and why not."""
    return ClientRow(client=client, examples=0, steps=0, train_loss=math.nan, seconds=0.0, status=what.splitlines()[0])


def client_row(client: int, metrics: Any, unevaluated: str | None) -> ClientRow:
    """Of a client whose update was used; `unevaluated` is what went wrong in its evaluation."""
    return ClientRow(
        client=client,
        examples=int(metrics["examples"]),
        steps=int(metrics["steps"]),
        train_loss=metrics["train-loss"],
        seconds=metrics["seconds"],
        status="ok" if unevaluated is None else f"evaluation: {unevaluated.splitlines()[0]}",
    )
