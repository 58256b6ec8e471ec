"""Loss and accuracy of a global vector on a fixed set of images.

Legend: `w: (P,)`, `buffers: (Q,)`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from fedsam.datasets import Dataset, Images, normalize
from fedsam.network import Network


@dataclass(frozen=True)
class Evaluation:
    """Mean loss (cross-entropy, nats) and accuracy (fraction) over `examples` examples."""

    loss: float
    accuracy: float
    examples: int


def evaluate(network: Network, w: Tensor, buffers: Tensor, images: Images, dataset: Dataset, batch_size: int = 500) -> Evaluation:
    """Evaluate in evaluation mode, without augmentation, weighted so that the batch size does not matter.

    Args:
        dataset: Gives the normalization constants.
    """
    device, dtype = w.device, w.dtype
    loss = torch.zeros((), dtype=torch.float64, device=device)
    correct = torch.zeros((), dtype=torch.int64, device=device)
    network.buffers = buffers
    with torch.no_grad(), network.evaluating():
        for x, y in zip(images.x.split(batch_size), images.y.split(batch_size), strict=True):
            logits = network(w, normalize(x.to(device), dataset.mean, dataset.std, dtype))
            labels = y.to(device)
            loss += functional.cross_entropy(logits, labels, reduction="sum").double()
            correct += (logits.argmax(dim=1) == labels).sum()
    return Evaluation(float(loss) / len(images.y), int(correct) / len(images.y), len(images.y))
