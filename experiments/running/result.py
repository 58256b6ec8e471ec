"""What a finished run gives."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from fedsam.formatting import plural
from fedsam.results.final import final_measures
from fedsam.results.rows import Row, as_table


@dataclass(frozen=True, repr=False)
class Result:
    """A finished run; accuracy, loss and gap are those of its report.

    Attributes:
        run_id: Its id in the results file.
        rows: One per round.
        w: The final model's parameters (P,), in `Layout` order.
        model: The network with these parameters.
        last: Evaluations that the final accuracy is the mean of, `measure.last`.
    """

    run_id: str
    rows: tuple[Row, ...]
    w: Tensor
    model: nn.Module
    last: int

    def __repr__(self) -> str:
        found = {"accuracy": self.accuracy, "loss": self.loss, "gap": self.gap}
        values = "".join(f", {name}={value:.4g}" for name, value in found.items() if value is not None)
        return f"Result({self.run_id!r}, {plural(len(self.rows), 'round')}{values})"

    @property
    def measures(self) -> Mapping[str, float]:
        """Final value of each measure, as of `final_measures`."""
        return final_measures(self.rows, self.last)

    @property
    def accuracy(self) -> float:
        """Final test accuracy (a fraction): the mean of the last evaluations; NaN where `measure.test` is false."""
        return self.measures.get("test_accuracy", math.nan)

    @property
    def loss(self) -> float:
        """Final test loss (nats): the mean of the last evaluations; NaN where `measure.test` is false."""
        return self.measures.get("test_loss", math.nan)

    @property
    def gap(self) -> float | None:
        """Accuracy on the clients' examples minus test accuracy, of the final model; None where one of both was not measured."""
        return self.measures.get("gap")

    @property
    def rounds(self) -> list[dict[str, Any]]:
        """The rounds as a table, a dict for each: what `pandas.DataFrame` takes."""
        return as_table(self.rows)
