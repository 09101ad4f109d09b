"""Regions of a posterior that chains do not leave by themselves, and jumps between them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scipy.cluster.hierarchy import fcluster, linkage
from scipy.special import logsumexp

from pymc_vi_ext.correction._covariance import factors_of, times

# Transitions of a block, and how many blocks are looked at.
_BLOCK, _MOST_BLOCKS = 10, 1_000
# Means of blocks are compared along so many directions, those in which they are furthest apart.
# Nearer than so many standard deviations of a block they are one; and so are groups whose means are
# nearer than so many of their own: two equal Gaussians have a valley between from 2 on, and chains
# cross it with ease until 4 or so.
_DIRECTIONS, _NEAR, _VALLEY = 5, 5.0, 4.5
# Groups before those without a valley between are joined; and what counts as no spread, and as no
# unit, of a block.
_MOST_GROUPS, _NO_SPREAD, _NO_UNIT = 50, 1e-9, 1e12
# What holds less than this part of the blocks is a chain that is held fast, and no region.
_LEAST_SHARE = 0.03
# Further from the mean than so many standard deviations in a coordinate, and than 1.5 times the
# furthest point, is outside a region.
_FAR, _BEYOND = 6.0, 1.5
# Least part of the jumps that go to a region: one that all chains have left is still tried.
_LEAST_WEIGHT = 0.02


@dataclass(frozen=True)
class Region:
    """A part of the posterior, as a Gaussian.

    Attributes
    ----------
    mean, sd : array of shape (d,)
    factor, inverse : array of shape (d, d) or (d,)
        Of the covariance, triangular, and its inverse; standard deviations where it is diagonal.
    reach : array of shape (d,)
        Distance from the mean of the furthest of its points, in standard deviations.
    """

    mean: np.ndarray
    sd: np.ndarray
    factor: np.ndarray
    inverse: np.ndarray
    reach: np.ndarray

    @classmethod
    def of(cls, points: np.ndarray, dense: bool) -> Region:
        """Return the region around points (n, d)."""
        mean, sd = points.mean(axis=0), np.maximum(points.std(axis=0), 1e-300)
        reach = np.max(abs(points - mean) / sd, axis=0)
        factor, inverse = factors_of(points, dense)
        return cls(mean, sd, factor, inverse, reach)

    def standardised(self, points: np.ndarray) -> np.ndarray:
        """Return points (n, d) in coordinates in which the Gaussian is standard."""
        return times(points - self.mean, self.inverse)

    def place(self, standardised: np.ndarray) -> np.ndarray:
        """Return the points that :meth:`standardised` makes these of."""
        found: np.ndarray = self.mean + times(standardised, self.factor)
        return found

    @property
    def log_volume(self) -> float:
        """Logarithm of the determinant of the factor."""
        diagonal = self.factor if self.factor.ndim == 1 else np.diag(self.factor)
        return float(np.sum(np.log(diagonal)))


class Regions:
    r"""Regions with weights: a mixture of Gaussians :math:`q = \sum_k w_k q_k`.

    A jump is a Metropolis step that leaves the posterior :math:`\pi` as it is, wherever the regions
    are and whatever weights they have. From :math:`x` the region :math:`k` is drawn that it belongs
    to, with probabilities :math:`w_k q_k(x) / q(x)`, a region :math:`j` with probabilities
    :math:`w_j`, and proposed is the point of the same standardised coordinates there,
    :math:`x' = m_j + L_j L_k^{-1} (x - m_k)`. Its density :math:`q_j(x')` is
    :math:`q_k(x) |L_k| / |L_j|`, so that all but this cancels in the ratio of the two ways:

    .. math::

        \min \left(1, \frac{\pi(x') / q(x')}{\pi(x) / q(x)} \right)

    What the regions have in common with each other and not with Gaussians does no harm: from a tail
    a jump ends in a tail.

    Parameters
    ----------
    regions : sequence of Region
    weights : array of shape (regions,)

    References
    ----------
    Pompe, E., Holmes, C. and Łatuszyński, K. (2020). A framework for adaptive MCMC targeting
    multimodal distributions. Annals of Statistics 48(5). https://arxiv.org/abs/1812.02609
    """

    def __init__(self, regions: list[Region], weights: np.ndarray):
        self.regions = regions
        weights = np.maximum(weights / np.sum(weights), _LEAST_WEIGHT)
        self.weights: np.ndarray = weights / weights.sum()

    @classmethod
    def one(cls, points: np.ndarray, dense: bool) -> Regions:
        """Return the single region around points (n, d)."""
        return cls([Region.of(points, dense)], np.ones(1))

    def __len__(self) -> int:
        return len(self.regions)

    def log_densities(self, points: np.ndarray) -> np.ndarray:
        """Return :math:`log w_k q_k` at points (n, d), (n, regions), but for a common constant."""
        with np.errstate(over="ignore", invalid="ignore"):
            squares = [np.sum(r.standardised(points) ** 2, axis=1) for r in self.regions]
        volumes = np.array([region.log_volume for region in self.regions])
        found: np.ndarray = -0.5 * np.stack(squares, axis=1) - volumes + np.log(self.weights)
        return found

    def nearest(self, points: np.ndarray) -> np.ndarray:
        """Return the number of the region, (n,), that each of the points (n, d) belongs to."""
        found: np.ndarray = np.argmax(self.log_densities(points), axis=1)
        return found

    def proposals(self, points: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return where points (n, d) would jump to."""
        logs = self.log_densities(points)
        # The largest of logarithms with Gumbel noise is a draw by the weights.
        here = np.argmax(logs + rng.gumbel(size=logs.shape), axis=1)
        there = rng.choice(len(self), size=len(points), p=self.weights)
        found = points.copy()
        for k, j in {*zip(here, there, strict=True)}:
            some = (here == k) & (there == j)
            if k != j:
                standardised = self.regions[k].standardised(points[some])
                found[some] = self.regions[j].place(standardised)
        return found

    def log_density(self, points: np.ndarray) -> np.ndarray:
        """Return :math:`log q`, (n,), at points (n, d), but for a constant."""
        found: np.ndarray = logsumexp(self.log_densities(points), axis=1)
        return found

    def centred(self, points: np.ndarray) -> np.ndarray:
        """Return points (n, d) moved so that all regions have the mean of the first."""
        means = np.stack([region.mean for region in self.regions])
        moved: np.ndarray = points - means[self.nearest(points)] + means[0]
        return moved

    def reach_of(self, points: np.ndarray) -> np.ndarray:
        """Return how far points (n, d) are from the nearest region: beyond 1 they are in none.

        In a coordinate, and in units of six standard deviations or 1.5 times the distance of the
        furthest point of the region, whichever is more.
        """
        distances = []
        for region in self.regions:
            limit = region.sd * np.maximum(_FAR, _BEYOND * region.reach)
            with np.errstate(over="ignore", invalid="ignore"):
                distances.append(np.max(abs(points - region.mean) / limit, axis=1))
        nearest: np.ndarray = np.min(distances, axis=0)
        return nearest

    def joined(self, others: Regions) -> Regions:
        """Return these and those of the others whose mean is in none of them."""
        means = np.stack([region.mean for region in others.regions])
        more = [others.regions[k] for k in np.flatnonzero(self.reach_of(means) > 1)]
        return Regions([*self.regions, *more], np.append(self.weights, np.zeros(len(more))))

    def of_draws(self, points: np.ndarray, dense: bool) -> Regions:
        """Return the same regions by the points (n, d) in them now; a deserted one stays."""
        nearest = self.nearest(points)
        enough = 2 if not dense else 2 * points.shape[1]
        regions, shares = [], []
        for k, region in enumerate(self.regions):
            own = points[nearest == k]
            regions.append(Region.of(own, dense) if len(own) > enough else region)
            shares.append(len(own) / len(points))
        return Regions(regions, np.array(shares))


def regions_of(paths: np.ndarray, dense: bool, rng: np.random.Generator) -> Regions:
    """Return the regions that chains are in.

    Chains are cut into blocks of ten transitions: long enough to go about in a region, short enough
    to leave it seldom. Blocks whose means are near each other, in units of what blocks cover, are
    one region; so are groups of them without a valley between, as along a ridge that takes many
    blocks to cross.

    Parameters
    ----------
    paths : array of shape (chains, n, d)
    dense : bool
        Whether regions have correlations.
    rng : numpy.random.Generator
    """
    _, n, d = paths.shape
    length = min(_BLOCK, n)
    blocks = paths[:, : n - n % length].reshape(-1, length, d)
    if len(blocks) > _MOST_BLOCKS:
        blocks = blocks[rng.choice(len(blocks), _MOST_BLOCKS, replace=False)]
    means = blocks.mean(axis=1)
    covered = Region.of((blocks - means[:, None]).reshape(-1, d), dense)
    centre = means.mean(axis=0)
    with np.errstate(over="ignore", invalid="ignore"):
        apart = covered.standardised(means - centre)
        reach = np.max(abs(apart))
    if not reach < _NO_UNIT:
        # No chain has moved: there is nothing to measure distances by.
        return Regions.one(paths.reshape(-1, d), dense)
    _, _, directions = np.linalg.svd(apart, full_matrices=False)
    seen = covered.standardised(blocks.reshape(-1, d) - centre) @ directions[:_DIRECTIONS].T
    seen = seen.reshape(len(blocks), length, -1)
    tree = linkage(seen.mean(axis=1), "average")
    number = fcluster(tree, _NEAR, "distance")
    if number.max() > _MOST_GROUPS:
        number = fcluster(tree, _MOST_GROUPS, "maxclust")
    groups = [np.flatnonzero(number == k) for k in np.unique(number)]
    while (pair := _without_valley([seen[group] for group in groups])) is not None:
        one, other = (groups[i] for i in pair)
        rest = [group for i, group in enumerate(groups) if i not in pair]
        groups = [*rest, np.concatenate([one, other])]
    groups = [group for group in groups if len(group) >= _LEAST_SHARE * len(blocks)]
    regions = [Region.of(blocks[group].reshape(-1, d), dense) for group in groups]
    return Regions(regions, np.array([len(group) for group in groups]))


def _without_valley(groups: list[np.ndarray]) -> tuple[int, int] | None:
    """Return the two groups of blocks that are nearest each other, None if all are apart.

    The distance is that of the means, in units of the mean covariance.
    """
    if len(groups) == 1:
        return None
    flat = [group.reshape(-1, group.shape[-1]) for group in groups]
    means = np.stack([points.mean(axis=0) for points in flat])
    covariances = np.stack([np.cov(points.T).reshape(2 * means.shape[1:]) for points in flat])
    one, other = np.triu_indices(len(groups), 1)
    away = means[one] - means[other]
    shared = (covariances[one] + covariances[other]) / 2
    # Groups that have not moved are apart by as much as you like.
    shared = shared + _NO_SPREAD * np.eye(means.shape[1])
    distances = np.sqrt(np.sum(away * np.linalg.solve(shared, away[..., None])[..., 0], axis=1))
    nearest = int(np.argmin(distances))
    return None if distances[nearest] > _VALLEY else (int(one[nearest]), int(other[nearest]))
