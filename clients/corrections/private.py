"""DP-FedSAM's clipped and noised update.

Legend: `D: (P,)` delta; `z: (P,)` standard normal numbers; `s` clients of the round.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from clients.corrections.base import LocalOutcome, Payload, Vectors, Wrapping
from clients.optimizers.base import norm
from fedsam.config import ConfigError, NonNegative, Positive
from fedsam.documentation import hyperparameter
from fedsam.models.flat import Layout


@dataclass(frozen=True, kw_only=True)
class Private(Wrapping):
    """Sends the delta clipped and with Gaussian noise, and never the delta itself; the local step is the inner correction's.

    It protects the delta alone: training loss, numbers of examples and running statistics go up as they are. The noise comes from the
    experiment's seed, so it hides nothing from those who know the seed. No privacy budget is computed: for one, use `scope = "vector"`,
    `server.weights = "uniform"` and a cohort whose clients all reply.
    """

    source = (
        "Shi et al., 2023, arXiv:2303.11242 (DP-FedSAM). The release clips each tensor by itself, so that an update of L tensors can have "
        "norm C sqrt(L) with noise for C, draws noise for running statistics too (not reproduced), and weights by examples."
    )
    clip: Positive = hyperparameter(0.2, "Largest L2 norm C of what is sent, before the noise.")
    scope: Literal["vector", "tensor"] = hyperparameter("vector", "Whether the whole delta has one norm (paper), or each tensor (release).")
    sigma: NonNegative = hyperparameter(0.95, "Noise multiplier: the standard deviation of the cohort's sum, in units of C; 0: no noise.")

    def __post_init__(self) -> None:
        if self.correction.keeps or self.correction.sends:
            why = "it keeps or sends vectors that follow the delta, which alone is protected"
            raise ConfigError(f"client.correction.inner: {self.inner.name!r} is not allowed in 'private': {why}")

    def finish(self, outcome: LocalOutcome, server_payload: Vectors, client_state: Vectors) -> tuple[Vectors, Payload]:
        """The inner correction's, the delta replaced. Raises `ConfigError` where the server does not say how large the cohort is."""
        client_state, payload = super().finish(outcome, server_payload, client_state)
        if outcome.cohort is None or outcome.rng is None or outcome.layout is None:
            raise ConfigError("client.correction: 'private' is not allowed with a server that does not say how many clients a round has")
        sent = self._clipped(outcome.delta if payload.delta is None else payload.delta, outcome.layout)
        if self.sigma:
            z = torch.from_numpy(outcome.rng().standard_normal(len(sent))).to(sent)
            sent = sent + self.sigma * self.clip / math.sqrt(outcome.cohort) * z
        return client_state, replace(payload, delta=sent)

    def _clipped(self, delta: Tensor, layout: Layout) -> Tensor:
        """D, scaled to norms of at most C; a norm of 0 is scaled by 1."""
        if self.scope == "vector":
            return delta * (self.clip / norm(delta)).clamp(max=1.0)
        norms = torch.stack([torch.linalg.vector_norm(tensor) for tensor in layout.views(delta).values()])
        return delta * layout.per_tensor((self.clip / norms).clamp(max=1.0))
