"""What a model promises."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from experiments.contracts.actors import ONE_MODEL
from experiments.contracts.base import Check, CheckedComponent, describe_difference, expect, expect_vector, first_few, global_generators
from fedsam.models import architectures
from fedsam.models.flat import Layout
from fedsam.models.network import Network

IMAGES = ((1, 32, 32), (1, 28, 28), (3, 32, 32))  # the digits, Fashion-MNIST, CIFAR
CLASSES, BATCH = 7, 2


def created(component: CheckedComponent, image: tuple[int, int, int] = IMAGES[0], seed: int = 0) -> nn.Module:
    """The network, as a run creates it."""
    return architectures.create(component.component, image, CLASSES, torch.Generator().manual_seed(seed))


def images(image: tuple[int, int, int] = IMAGES[0]) -> Tensor:
    """Random images (B, C, H, W)."""
    return torch.rand(BATCH, *image, generator=torch.Generator().manual_seed(0))


def logits_fit(component: CheckedComponent) -> None:
    """One score per class and image, for grey and for colour images."""
    for image in IMAGES:
        given = created(component, image)(images(image))
        expect(isinstance(given, Tensor), "a tensor of scores", f"a {type(given).__name__}")
        expect_vector(given.detach(), torch.zeros(BATCH, CLASSES), f"the scores of {BATCH} images {image} in {CLASSES} classes")


def gradient_reaches_all(component: CheckedComponent) -> None:
    """No trainable parameter is idle."""
    network = created(component)
    trainable = {name: p for name, p in network.named_parameters() if p.requires_grad}
    expect(bool(trainable), "parameters to train", "none")
    network.train()
    with torch.random.fork_rng(devices=[]):
        network(images()).square().sum().backward()
    idle = [name for name, p in trainable.items() if p.grad is None or not p.grad.abs().sum() > 0]
    expect(not idle, "a gradient for every trainable parameter", f"none for {first_few(idle)}")


def weights_follow_the_seed(component: CheckedComponent) -> None:
    """The initial weights depend on the generator that is handed in, and on nothing else."""
    vectors = []
    for other, seed in ((1, 0), (2, 0), (1, 1)):
        with global_generators(other):
            network = created(component, seed=seed)
        vectors.append(Layout.of_module(network).vector(dict(network.named_parameters())))
    same, again, different = vectors
    expect(torch.equal(same, again), "the same initial weights from one seed", f"weights that {describe_difference(same, again)}")
    expect(not torch.equal(same, different), "other initial weights from another seed", "the same")


def evaluation_changes_nothing(component: CheckedComponent) -> None:
    """When testing, the same images get the same scores, and running statistics stay."""
    network, x = Network(created(component)), images()
    with network.evaluating(), torch.no_grad():
        before, first = network.buffers, network(network.initial, x)
        again, after = network(network.initial, x), network.buffers
        alone = torch.cat([network(network.initial, row) for row in x.split(1)])
    expect(
        torch.equal(first, again), "the same scores for the same images in evaluation", f"scores that {describe_difference(first, again)}"
    )
    expect(torch.equal(before, after), "running statistics to stay in evaluation", f"statistics that {describe_difference(before, after)}")
    close = torch.allclose(first, alone, rtol=1e-3, atol=1e-4)
    expect(close, "an image's scores in evaluation whatever images are beside it", f"scores that {describe_difference(first, alone)}")


def it_depends_on_its_vector(component: CheckedComponent) -> None:
    """The network is a function of its parameters as one vector: it can be moved, and moved back."""
    network, x = Network(created(component)), images()
    other = network.initial + 0.1 * torch.randn(network.layout.size, generator=torch.Generator().manual_seed(0))
    with network.evaluating(), torch.no_grad():
        first, moved, back = (network(w, x) for w in (network.initial, other, network.initial))
    expect(not torch.equal(first, moved), "other scores at other parameters", "the same scores")
    expect(torch.equal(first, back), "the same scores back at the same parameters", f"scores that {describe_difference(first, back)}")


CHECKS = (
    Check("it scores grey and colour images", logits_fit),
    Check("a gradient reaches every trainable parameter", gradient_reaches_all),
    Check("the seed decides its initial weights", weights_follow_the_seed),
    Check("evaluation is repeatable and changes no statistics", evaluation_changes_nothing),
    Check("it is a function of its parameters", it_depends_on_its_vector),
    ONE_MODEL,
)
