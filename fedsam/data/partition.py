"""Partitions of the training examples over clients.

A partition is `(labels, num_clients, rng, *, hyperparameters) -> index arrays`: one sorted array per client, disjoint, covering all
examples. A parameter `owner` receives the client of each example, where the dataset has them. Every client gets at least
`min_examples`: where a draw gives it fewer, examples are moved from the largest clients.

Legend: `labels: (N,)` classes; `owner: (N,)` the client of each example; n clients; K classes.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from fedsam.config import ConfigError, Count, NonNegative
from fedsam.data.flwr_partition import as_partition, is_partitioner
from fedsam.documentation import documented
from fedsam.registry import FunctionContract, Registry

Ints = NDArray[np.integer[Any]]
Indices = NDArray[np.int64]
Floats = NDArray[np.float64]
Concentration = Annotated[float, Field(ge=1e-6, le=1e6)]  # beyond, the gamma draws of a Dirichlet overflow or underflow


@documented(
    source="McMahan et al., 2017, arXiv:1602.05629, section 3.",
    min_examples="Fewest examples of a client.",
)
def iid(labels: Ints, num_clients: int, rng: np.random.Generator, *, min_examples: Count = 1) -> list[Indices]:
    """Every client holds a uniform sample, of equal size but for a remainder of one."""
    _check(len(labels), num_clients, min_examples)
    return _parts(_equal(len(labels), num_clients, rng), num_clients, rng, min_examples)


@documented(
    source=(
        "not balanced: Yurochkin et al., 2019, arXiv:1905.12022, and Li et al., 2022, arXiv:2102.02079 (NIID-Bench), who draw again until "
        "each client has 10 examples, where we move examples. Balanced: Hsu et al., 2019, arXiv:1909.06335 (its alpha is K times ours) "
        "and the code of Acar et al., 2021, arXiv:2111.04263 (FedDyn). FL-Simulator refills a class that ran out, so that clients share "
        "examples; we do not."
    ),
    alpha="Concentration: small gives each client few classes, large is nearly iid.",
    balanced="Whether clients have equal sizes.",
    min_examples="Fewest examples of a client.",
)
def dirichlet(
    labels: Ints,
    num_clients: int,
    rng: np.random.Generator,
    *,
    alpha: Concentration = 0.3,
    balanced: bool = False,
    min_examples: Count = 1,
) -> list[Indices]:
    """Every client has its own mix of classes, drawn from a Dirichlet distribution.

    Not balanced: each class is cut into n pieces whose proportions are drawn from Dir(alpha), so that clients differ in size, too.
    Balanced: clients have equal sizes and each draws its class prior from Dir(alpha); they draw examples in turns and without
    replacement, and when a class has run out the priors are renormalized over what is left.
    """
    _check(len(labels), num_clients, min_examples)
    draw = _by_prior if balanced else _by_class
    return _parts(draw(_codes(labels), num_clients, rng, alpha), num_clients, rng, min_examples)


@documented(
    source="McMahan et al., 2017, arXiv:1602.05629, section 3.",
    classes_per_client="Shards of a client.",
    min_examples="Fewest examples of a client.",
)
def shards(
    labels: Ints, num_clients: int, rng: np.random.Generator, *, classes_per_client: Count = 2, min_examples: Count = 1
) -> list[Indices]:
    """The examples, sorted by class, are cut into equal shards, and every client is dealt as many as it shall have classes.

    A shard that straddles two classes gives its client one more, two shards of one class give it one fewer.
    """
    _check(len(labels), num_clients, min_examples)
    total = num_clients * classes_per_client
    shuffled = rng.permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    holder = rng.permutation(total) // classes_per_client
    owner = np.empty(len(labels), np.int64)
    owner[by_class] = holder[np.arange(len(labels)) * total // len(labels)]
    return _parts(owner, num_clients, rng, min_examples)


@documented(
    source='the code of Acar et al., 2021, arXiv:2111.04263 (FedDyn), "unbalanced".',
    sigma="Standard deviation of the logarithm of a client's size; 0 gives equal sizes.",
    min_examples="Fewest examples of a client.",
)
def quantity(
    labels: Ints, num_clients: int, rng: np.random.Generator, *, sigma: NonNegative = 0.3, min_examples: Count = 1
) -> list[Indices]:
    """Clients differ in size, log-normally, but not in their mix of classes."""
    _check(len(labels), num_clients, min_examples)
    exponent = sigma * rng.standard_normal(num_clients)
    weights = np.exp(exponent - exponent.max())
    sizes = _apportion(weights / weights.sum(), len(labels))
    return _parts(rng.permutation(np.repeat(np.arange(num_clients), sizes)), num_clients, rng, min_examples)


def natural(labels: Ints, num_clients: int, rng: np.random.Generator, owner: Ints) -> list[Indices]:
    """Every client holds the examples that are its own: the dataset says whose they are.

    Needs a dataset that knows, such as `npz:PATH` with an array client_train; data.clients must be the number of its clients.
    """
    found = int(owner.max()) + 1
    if num_clients != found:
        raise ConfigError(f"data.clients: {num_clients} is not allowed: the examples come from {found} clients")
    return _members(owner.astype(np.int64), num_clients)


class Partitions(Registry[Callable[..., list[Indices]]]):
    """Partitions by name; classes of partitioners of flwr-datasets are accepted, too."""

    def find(self, name: str, where: str) -> Callable[..., list[Indices]]:
        """The partition of a name; `flwr_datasets:CLASS` is short for `flwr_datasets.partitioner:CLASS`. Raises as `Registry.find`."""
        package, _, attribute = name.partition(":")
        if package != "flwr_datasets" or not attribute:
            return super().find(name, where)
        if find_spec(package) is None:
            raise ConfigError(f"{where}: {name!r} is not allowed: it needs the package flwr-datasets: pip install 'fedsam[flwr-datasets]'")
        return super().find(f"{package}.partitioner:{attribute}", where)

    def _checked(self, found: Any, refused: str) -> Callable[..., list[Indices]]:
        return super()._checked(as_partition(found) if is_partitioner(found) else found, refused)


PARTITIONS = Partitions(
    "partitions",
    FunctionContract(("labels", "num_clients", "rng"), optional=("owner",)),
    {"iid": iid, "dirichlet": dirichlet, "shards": shards, "quantity": quantity, "natural": natural},
)


def class_counts(labels: Ints, indices: Sequence[Indices], classes: int) -> Indices:
    """Number of examples of each client (row) and class (column)."""
    owner = np.repeat(np.arange(len(indices)), [len(own) for own in indices])
    cells = owner * classes + labels[np.concatenate(indices)]
    return np.bincount(cells, minlength=len(indices) * classes).reshape(len(indices), classes)


def validate_partition(assigned: Sequence[Any], examples: int, num_clients: int, name: str) -> list[Indices]:
    """The result of a partition as index arrays, after checks.

    Raises:
        ConfigError: It is not one array of whole numbers for each client, a client has no examples, or an example is missing or repeated.
    """
    refused = f"data.partition: {name!r} is not allowed"
    try:
        indices = [np.asarray(own) for own in assigned]
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{refused}: it must give an index array for each client ({error})") from None
    if len(indices) != num_clients:
        raise ConfigError(f"{refused}: it gives {len(indices)} index arrays for {num_clients} clients (data.clients)")
    if any(own.ndim != 1 or not np.issubdtype(own.dtype, np.integer) for own in indices if own.size):
        raise ConfigError(f"{refused}: it must give arrays of whole numbers, the indices of examples, for each client")
    if empty := [client for client, own in enumerate(indices) if not own.size]:
        raise ConfigError(f"{refused}: client {empty[0]} has no examples; {len(empty)} of {num_clients} clients have none")
    every = np.concatenate(indices)
    if every.min() < 0 or every.max() >= examples or np.bincount(every).max() > 1:
        raise ConfigError(f"{refused}: it deals an example twice, or one that is not among the {examples} there are")
    if len(every) < examples:
        raise ConfigError(f"{refused}: it deals {len(every)} of {examples} examples; data.examples takes fewer")
    return [own.astype(np.int64) for own in indices]


def _check(examples: int, num_clients: int, min_examples: int) -> None:
    if num_clients * min_examples > examples:
        allowed = f"at most {examples // min_examples}, for each to hold {min_examples} of {examples} examples"
        raise ConfigError(f"data.clients: {num_clients} is not allowed: {allowed}")


def _parts(owner: Indices, num_clients: int, rng: np.random.Generator, min_examples: int) -> list[Indices]:
    return _members(_repair(owner, num_clients, rng, min_examples), num_clients)


def _repair(owner: Indices, num_clients: int, rng: np.random.Generator, min_examples: int) -> Indices:
    """`owner` after moving random examples from the largest clients, one at a time, to those with too few."""
    sizes = np.bincount(owner, minlength=num_clients)
    needed = np.maximum(min_examples - sizes, 0)
    if not needed.any():
        return owner
    keeps = _take_from_largest(sizes, int(needed.sum()))
    shuffled = rng.permutation(len(owner))
    grouped = shuffled[np.argsort(owner[shuffled], kind="stable")]
    rank = np.arange(len(owner)) - np.repeat(sizes.cumsum() - sizes, sizes)
    repaired = owner.copy()
    repaired[grouped[rank >= keeps[owner[grouped]]]] = rng.permutation(np.repeat(np.arange(num_clients), needed))
    return repaired


def _take_from_largest(sizes: Indices, amount: int) -> Indices:
    """The sizes after taking `amount` examples from the largest, one at a time: down to a common level, and one more from some."""
    level = bisect_left(range(int(sizes.max())), -amount, key=lambda height: -int(np.maximum(sizes - height, 0).sum()))
    keeps = np.minimum(sizes, level)
    more = amount - int((sizes - keeps).sum())
    keeps[np.flatnonzero(keeps == level)[:more]] -= 1
    return keeps


def _equal(examples: int, num_clients: int, rng: np.random.Generator) -> Indices:
    """A random owner of each example, with equal sizes but for a remainder of one."""
    return rng.permutation(np.arange(examples) % num_clients)


def _apportion(shares: Floats, total: int) -> Indices:
    """`total` as whole numbers in proportion to `shares`, by largest remainder."""
    exact = shares * total
    sizes = np.floor(exact).astype(np.int64)
    sizes[np.argsort(sizes - exact, kind="stable")[: total - sizes.sum()]] += 1
    return sizes


def _codes(labels: Ints) -> Indices:
    """The classes that occur, numbered from 0."""
    return np.unique(labels, return_inverse=True)[1].astype(np.int64)


def _by_class(codes: Indices, num_clients: int, rng: np.random.Generator, alpha: float) -> Indices:
    """Owners when each class is cut in proportions from Dir(alpha) over the clients."""
    owner = np.empty(len(codes), np.int64)
    for examples in _members(codes, codes.max() + 1):
        cuts = rng.dirichlet(np.full(num_clients, alpha)).cumsum()[:-1] * len(examples)
        pieces = np.searchsorted(cuts.astype(np.int64), np.arange(len(examples)), side="right")
        # Clients in another order for each class: where pieces are about one example, rounding would favour the same clients each time.
        owner[rng.permutation(examples)] = rng.permutation(num_clients)[pieces]
    return owner


def _by_prior(codes: Indices, num_clients: int, rng: np.random.Generator, alpha: float) -> Indices:
    """Owners when clients of equal size draw examples in turns, each from its class prior drawn from Dir(alpha)."""
    members = _members(codes, codes.max() + 1)
    turns = _equal(len(codes), num_clients, rng)
    drawn = _draw_classes(turns, rng.dirichlet(np.full(len(members), alpha), size=num_clients), np.bincount(codes), rng)
    owner = np.empty(len(codes), np.int64)
    for code, examples in enumerate(members):
        owner[rng.permutation(examples)] = turns[drawn == code]
    return owner


def _draw_classes(turns: Indices, priors: Floats, stock: Indices, rng: np.random.Generator) -> Indices:
    """The class that is drawn at each turn, without replacement.

    The distribution is that of sequential draws, where a draw of an exhausted class is repeated. It changes only when a class runs out, so
    all later draws of that class are repeated at once: K passes instead of one per example.

    Args:
        turns: The client whose turn it is (N,).
        priors: Class probabilities of each client (n, K).
        stock: Examples of each class (K,), N in total.
    """
    left = np.ones(len(stock), dtype=bool)
    drawn = _categorical(priors[turns], stock * left, rng)
    while True:
        turns_of = _members(drawn, len(stock))
        over = [code for code, found in enumerate(turns_of) if len(found) > stock[code]]
        if not over:
            return drawn
        first = min(over, key=lambda code: turns_of[code][stock[code]])
        late = turns_of[first][stock[first] :]
        left[first] = False
        drawn[late] = _categorical(priors[turns[late]] * left, stock * left, rng)


def _categorical(weights: Floats, otherwise: Indices, rng: np.random.Generator) -> Indices:
    """One draw from each row of weights (M, K), or from `otherwise` (K,) where a row is zero (an underflow at small alpha)."""
    weights = np.where(weights.any(axis=1, keepdims=True), weights, otherwise)
    sums = weights.cumsum(axis=1)
    total = sums[:, -1]
    # Below the total even after rounding, so that the last sum exceeds it and no class of weight zero is chosen.
    at = np.minimum(rng.random(len(weights)) * total, np.nextafter(total, 0))
    chosen: Indices = (sums <= at[:, None]).sum(axis=1)
    return chosen


def _members(groups: Indices, count: int) -> list[Indices]:
    """The indices of the members of each of `count` groups, ascending."""
    return np.split(np.argsort(groups, kind="stable"), np.bincount(groups, minlength=count).cumsum()[:-1])
