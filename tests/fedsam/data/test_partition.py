"""Partitions: exact covers, minimum sizes, determinism, and the laws that their hyperparameters stand for."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsam import registry
from fedsam.config import Component, ConfigError
from fedsam.data.partition import PARTITIONS, class_counts, dirichlet, quantity, shards


def part(name: str, **settings: object) -> Component:
    return Component.model_validate({"name": name, **settings})


CIFAR_LIKE = np.repeat(np.arange(10), 5000)
VARIANTS = [
    part("iid"),
    part("dirichlet"),
    part("dirichlet", alpha=0.01),
    part("dirichlet", alpha=1e-6),
    part("dirichlet", alpha=1e6),
    part("dirichlet", balanced=True),
    part("dirichlet", balanced=True, alpha=1e-6),
    part("shards"),
    part("shards", classes_per_client=7),
    part("quantity"),
    part("quantity", sigma=0),
    part("quantity", sigma=500.0),
]
variants = st.sampled_from(VARIANTS)


def draw(piece: Component, labels: np.ndarray, clients: int, seed: int = 0) -> list[np.ndarray]:
    return list(registry.build(PARTITIONS, piece, "data.partition")(labels, clients, np.random.default_rng(seed)))


def sizes(indices: list[np.ndarray]) -> np.ndarray:
    return np.array([len(piece) for piece in indices])


def concentration(indices: list[np.ndarray]) -> float:
    """Mean over clients of the share of the client's largest class."""
    counts = class_counts(CIFAR_LIKE, indices, 10)
    return float(np.mean(counts.max(1) / counts.sum(1)))


def test_every_partition_is_varied() -> None:
    assert {piece.name for piece in VARIANTS} == set(PARTITIONS) - {"natural"}  # which draws nothing


@settings(max_examples=150, deadline=None)
@given(data=st.data(), piece=variants, seed=st.integers(0, 2**32), labels=st.lists(st.integers(0, 6), min_size=1, max_size=80))
def test_disjoint_cover_with_minimum_sizes(data: st.DataObject, piece: Component, seed: int, labels: list[int]) -> None:
    clients = data.draw(st.integers(1, len(labels)))
    fewest = data.draw(st.integers(1, len(labels) // clients))
    given_labels = np.array(labels)
    indices = draw(piece.model_copy(update={"min_examples": fewest}), given_labels, clients, seed)

    assert len(indices) == clients
    assert np.array_equal(np.sort(np.concatenate(indices)), np.arange(len(labels)))
    assert all(np.array_equal(np.sort(piece), piece) for piece in indices)
    assert sizes(indices).min() >= fewest
    assert np.array_equal(given_labels, np.array(labels))


@pytest.mark.parametrize("piece", VARIANTS, ids=str)
def test_same_seed_same_parts(piece: Component) -> None:
    first, again, other = (draw(piece, CIFAR_LIKE, 20, seed) for seed in (1, 1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("piece", VARIANTS, ids=str)
def test_ten_thousand_clients(piece: Component) -> None:
    indices = draw(piece, CIFAR_LIKE, 10_000)
    assert sizes(indices).min() >= 1


@pytest.mark.parametrize("piece", VARIANTS, ids=str)
def test_too_many_clients(piece: Component) -> None:
    with pytest.raises(ConfigError, match=r"data\.clients: 11 is not allowed: at most 10, for each to hold 1 of 10 examples"):
        draw(piece, np.arange(10), 11)
    with pytest.raises(ConfigError, match=r"data\.clients: 4 is not allowed: at most 3, for each to hold 3 of 10 examples"):
        draw(piece.model_copy(update={"min_examples": 3}), np.arange(10), 4)


@pytest.mark.parametrize(
    ("piece", "message"),
    [
        (part("dirichlet", alpha=0), r"data\.partition\.alpha: 0 is not allowed"),
        (part("dirichlet", alpha=float("nan")), r"data\.partition\.alpha"),
        (part("shards", classes_per_client=0), r"data\.partition\.classes_per_client: 0 is not allowed"),
        (part("quantity", sigma=-1), r"data\.partition\.sigma: -1 is not allowed"),
        (part("iid", alpha=1), r"data\.partition\.alpha: unknown key"),
        (part("dirichlt"), r"did you mean 'dirichlet'"),
    ],
)
def test_wrong_hyperparameters(piece: Component, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        draw(piece, CIFAR_LIKE, 10)


@pytest.mark.parametrize("piece", [part("iid"), part("quantity", sigma=0), part("dirichlet", balanced=True)], ids=str)
def test_equal_sizes(piece: Component) -> None:
    assert sorted(set(sizes(draw(piece, CIFAR_LIKE[:4999], 70)))) == [71, 72]


@pytest.mark.parametrize("balanced", [False, True])
def test_alpha_spans_iid_to_one_class(balanced: bool) -> None:
    def at(alpha: float) -> list[np.ndarray]:
        return draw(part("dirichlet", alpha=alpha, balanced=balanced), CIFAR_LIKE, 50)

    shares = class_counts(CIFAR_LIKE, at(1e6), 10) / 1000
    assert np.abs(shares - 0.1).max() < (0.06 if balanced else 0.01)  # balanced draws examples: four standard errors of a share
    assert concentration(at(1e6)) < concentration(at(1.0)) < concentration(at(0.1)) < concentration(at(0.001))
    assert concentration(at(0.001)) > (0.7 if balanced else 0.9)  # the last to draw take what is left


def test_balanced_dirichlet_draws_the_clients_priors() -> None:
    # With ten times the examples that a client takes, no class runs out early: shares are those of Dir(alpha), whose mean square
    # is (alpha + 1) / (K (K alpha + 1)) for K classes.
    squares = []
    for seed in range(20):
        counts = class_counts(CIFAR_LIKE, draw(part("dirichlet", balanced=True, alpha=1.0), CIFAR_LIKE, 200, seed), 10)
        squares.append(np.mean((counts / 250) ** 2))
    drawn_with_noise = (2 / 110) + (0.1 - 2 / 110) / 250
    assert np.mean(squares) == pytest.approx(drawn_with_noise, rel=0.05)


def test_balanced_dirichlet_is_the_sequential_draw() -> None:
    """The vectorized draw has the law of the published loop: one example after the other, redrawing a class that ran out."""
    from fedsam.data.partition import _draw_classes

    turns, stock = np.array([0, 1, 0, 1, 1, 0]), np.array([1, 2, 3])
    priors = np.array([[0.8, 0.15, 0.05], [0.3, 0.3, 0.4]])

    def probabilities(drawn: tuple[int, ...]) -> float:
        product, left = 1.0, stock.copy()
        for client, code in zip(turns, drawn, strict=True):
            weights = priors[client] * (left > 0)
            product *= weights[code] / weights.sum()
            left[code] -= 1
        return product

    repeats, rng = 8_000, np.random.default_rng(0)
    found: dict[tuple[int, ...], int] = {}
    for _ in range(repeats):
        drawn = tuple(_draw_classes(turns, priors, stock, rng).tolist())
        found[drawn] = found.get(drawn, 0) + 1
    assert len(found) > 40
    assert sum(probabilities(drawn) for drawn in found) == pytest.approx(1, abs=1e-2)
    deviations = [(count - repeats * probabilities(drawn)) / np.sqrt(repeats * probabilities(drawn)) for drawn, count in found.items()]
    assert np.max(np.abs(deviations)) < 5


def test_unbalanced_dirichlet_cuts_classes_in_dirichlet_proportions() -> None:
    counts = np.concatenate([class_counts(CIFAR_LIKE, draw(part("dirichlet", alpha=0.5), CIFAR_LIKE, 20, s), 10) for s in range(30)])
    assert np.mean((counts / 5000) ** 2) == pytest.approx(1.5 / (20 * 11), rel=0.05)  # (alpha + 1) / (n (n alpha + 1))


def test_unbalanced_dirichlet_favours_nobody_when_pieces_are_small() -> None:
    assert sizes(dirichlet(CIFAR_LIKE, 10_000, np.random.default_rng(0), alpha=1e6)).std() < 2  # not 0 for one half and 10 for the other


def test_shards_give_few_classes() -> None:
    indices = shards(CIFAR_LIKE, 100, np.random.default_rng(0), classes_per_client=2)
    counts = class_counts(CIFAR_LIKE, indices, 10)
    assert set(sizes(indices)) == {500}
    assert (counts > 0).sum(1).max() == 2  # shards do not straddle classes here
    assert set(np.unique(counts)) == {0, 250, 500}


def test_quantity_is_log_normal_in_size_and_iid_in_class() -> None:
    indices = quantity(CIFAR_LIKE, 50, np.random.default_rng(0), sigma=1.0)
    assert np.log(sizes(indices)).std() == pytest.approx(1.0, rel=0.3)
    assert np.abs(class_counts(CIFAR_LIKE, indices, 10) / sizes(indices)[:, None] - 0.1).max() < 0.1


def test_repair_takes_from_the_largest() -> None:
    from fedsam.data.partition import _repair

    owner = np.repeat(np.arange(4), [7, 6, 1, 0])
    repaired = _repair(owner, 4, np.random.default_rng(0), 2)
    assert np.bincount(repaired).tolist() == [5, 5, 2, 2]
    assert (owner == np.repeat(np.arange(4), [7, 6, 1, 0])).all()
    moved = owner != repaired
    assert moved.sum() == 3


def test_class_counts() -> None:
    indices = [np.array([0, 1, 4]), np.array([], dtype=np.int64), np.array([2, 3])]
    assert class_counts(np.array([0, 2, 2, 2, 0]), indices, 4).tolist() == [[2, 0, 1, 0], [0, 0, 0, 0], [0, 0, 2, 0]]


OWNER = np.array([2, 0, 0, 1, 2, 2])


def test_natural_gives_every_client_its_own() -> None:
    found = PARTITIONS["natural"](np.zeros(6), 3, np.random.default_rng(0), owner=OWNER)
    assert [piece.tolist() for piece in found] == [[1, 2], [3], [0, 4, 5]]


def test_natural_wants_the_clients_that_there_are() -> None:
    with pytest.raises(ConfigError, match=r"data\.clients: 5 is not allowed: the examples come from 3 clients"):
        PARTITIONS["natural"](np.zeros(6), 5, np.random.default_rng(0), owner=OWNER)


def test_who_owns_what_is_no_setting() -> None:
    with pytest.raises(ConfigError, match=r"data\.partition\.owner: unknown key"):
        registry.build(PARTITIONS, part("natural", owner=[0, 1]), "data.partition")
