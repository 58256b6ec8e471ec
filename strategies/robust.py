"""Flower's robust strategies as server rules: they aggregate the clients' models themselves, with Flower's own code."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field
from torch import Tensor

from fedsam.config import Count
from fedsam.documentation import hyperparameter
from strategies.base import Aggregate, ServerRule, State

if TYPE_CHECKING:
    from flwr.serverapp.strategy import Strategy

Malicious = Annotated[int, Field(ge=0)]


@dataclass(frozen=True, kw_only=True)
class FlowerRule(ServerRule):
    """A rule whose aggregation is a Flower strategy's; `FlowerCohort` is the shell that runs it."""

    nests: ClassVar[bool] = False

    @abstractmethod
    def strategy(self) -> Strategy:
        """The Flower strategy."""

    def server_step(self, w: Tensor, state: State, aggregate: Aggregate) -> tuple[Tensor, State]:
        """There is none: `FlowerCohort` hands the clients' models to `strategy`. Raises `TypeError`."""
        raise TypeError(f"{type(self).__name__} combines the clients' models by itself")

    def min_updates(self) -> int:
        """The least number of updates that it can combine."""
        return 1


@dataclass(frozen=True, kw_only=True)
class FlowerMedian(FlowerRule):
    """The median of the clients' models, scalar by scalar."""

    source = "Yin et al., 2018, arXiv:1803.01498; Flower's FedMedian."

    def strategy(self) -> Strategy:
        from flwr.serverapp.strategy import FedMedian

        return FedMedian()


@dataclass(frozen=True, kw_only=True)
class FlowerTrimmedMean(FlowerRule):
    """The mean of the clients' models, scalar by scalar, without the largest and smallest values."""

    source = "Yin et al., 2018, arXiv:1803.01498; Flower's FedTrimmedAvg."
    beta: Annotated[float, Field(ge=0, lt=0.5)] = hyperparameter(0.2, "Share of the values that is cut off at each end.")

    def strategy(self) -> Strategy:
        from flwr.serverapp.strategy import FedTrimmedAvg

        return FedTrimmedAvg(beta=self.beta)


@dataclass(frozen=True, kw_only=True)
class FlowerKrum(FlowerRule):
    """The one client's model that is closest to the others'."""

    source = "Blanchard et al., 2017, arXiv:1703.02757; Flower's Krum."
    malicious: Malicious = hyperparameter(1, "Clients of a cohort that are assumed to lie.")

    def strategy(self) -> Strategy:
        from flwr.serverapp.strategy import Krum

        return Krum(num_malicious_nodes=self.malicious)

    def min_updates(self) -> int:
        """So many that a neighbour is left when the malicious clients are not counted."""
        return self.malicious + 3


@dataclass(frozen=True, kw_only=True)
class FlowerMultiKrum(FlowerKrum):
    """The mean of the clients' models that are closest to the others', weighted by examples."""

    source = "Blanchard et al., 2017, arXiv:1703.02757; Flower's MultiKrum."
    select: Count = hyperparameter(3, "Models in the mean.")

    def strategy(self) -> Strategy:
        from flwr.serverapp.strategy import MultiKrum

        return MultiKrum(num_malicious_nodes=self.malicious, num_nodes_to_select=self.select)

    def min_updates(self) -> int:
        """As for Krum, and as many as are selected."""
        return max(super().min_updates(), self.select)


@dataclass(frozen=True, kw_only=True)
class FlowerBulyan(FlowerKrum):
    """Multi-Krum's choice of models, then the mean of the values closest to their median, scalar by scalar."""

    source = "El Mhamdi et al., 2018, arXiv:1802.07927; Flower's Bulyan."

    def strategy(self) -> Strategy:
        from flwr.serverapp.strategy import Bulyan

        return Bulyan(num_malicious_nodes=self.malicious)

    def min_updates(self) -> int:
        """Four for every malicious client and three more."""
        return 4 * self.malicious + 3
