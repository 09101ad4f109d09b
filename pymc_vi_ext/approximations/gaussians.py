"""Gaussians of a family as numbers: what they average to, and how far apart two are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from pymc.variational.opvi import Group

from pymc_vi_ext.approximations._algebra import (
    nearest_factors,
    packed_factor,
    set_values,
    softplus_inverse,
)

# Gaussians of low rank that an average is made of: their factors stand side by side.
_MOST_AVERAGED, _ROUNDS = 16, 100


class Dense(NamedTuple):
    """A Gaussian of full covariance.

    Attributes
    ----------
    mean : array of shape (d,)
    cov : array of shape (d, d)
    """

    mean: np.ndarray
    cov: np.ndarray

    @classmethod
    def of(cls, group: Group) -> Dense:
        """Return that of a full-rank group, as it is now."""
        mean, packed = (group.params_dict[p].get_value() for p in ("mu", "L_tril"))
        d = len(mean)
        factor = np.zeros((d, d))
        factor[np.tril_indices(d)] = packed
        diagonal = np.diag_indices(d)
        factor[diagonal] = np.logaddexp(0.0, factor[diagonal])
        return cls(mean.astype(float), factor @ factor.T)

    @classmethod
    def from_flat(cls, flat: np.ndarray, d: int) -> Dense:
        """Return that of all its numbers one after the other."""
        return cls(flat[:d], flat[d:].reshape(d, d))

    @classmethod
    def average(cls, several: Sequence[Dense]) -> Dense:
        """Return the one of averaged means and covariances."""
        return cls(*(np.mean(parts, axis=0) for parts in zip(*several, strict=True)))

    def dense(self) -> Dense:
        """Return this."""
        return self

    def divergence(self, other: Dense) -> float:
        """Return KL(self || other), in nats."""
        ratio = np.linalg.solve(other.cov, self.cov)
        away = other.mean - self.mean
        quadratic = np.linalg.solve(other.cov, away) @ away
        trace = np.trace(ratio) - len(away)
        return 0.5 * float(trace + quadratic - np.linalg.slogdet(ratio)[1])

    def set(self, group: Group) -> None:
        """Set a full-rank group to this."""
        set_values(group, {"mu": self.mean, "L_tril": packed_factor(self.cov)})


class LowRank(NamedTuple):
    """A Gaussian of diagonal plus low-rank covariance.

    Attributes
    ----------
    mean, noise : array of shape (d,)
        The mean, and the variances on the diagonal.
    factors : array of shape (d, r)
    """

    mean: np.ndarray
    noise: np.ndarray
    factors: np.ndarray

    @classmethod
    def of(cls, group: Group) -> LowRank:
        """Return that of a low-rank group, as it is now."""
        mu, rho, factors = (group.params_dict[p].get_value() for p in ("mu", "rho", "W"))
        return cls(mu.astype(float), np.logaddexp(0.0, rho.astype(float)) ** 2, factors)

    @classmethod
    def from_flat(cls, flat: np.ndarray, d: int) -> LowRank:
        """Return that of all its numbers one after the other."""
        return cls(flat[:d], flat[d : 2 * d], flat[2 * d :].reshape(d, -1))

    @classmethod
    def average(cls, several: Sequence[LowRank]) -> LowRank:
        """Return the one nearest to the averaged means and covariances."""
        some = np.linspace(0, len(several) - 1, min(len(several), _MOST_AVERAGED)).astype(int)
        _, noises, factors = zip(*(several[i] for i in some), strict=True)
        noise = np.mean(noises, axis=0)
        side_by_side = np.concatenate(factors, axis=1) / np.sqrt(len(some))
        nothing = np.zeros((len(noise), 0))
        found = nearest_factors(
            noise,
            side_by_side,
            nothing,
            (noise, factors[-1]),
            _ROUNDS,
            solve=np.linalg.solve,
            eye=np.eye,
            maximum=np.maximum,
        )
        return cls(np.mean([one.mean for one in several], axis=0), *found)

    def dense(self) -> Dense:
        """Return the same Gaussian with its whole covariance."""
        return Dense(self.mean, np.diag(self.noise) + self.factors @ self.factors.T)

    def divergence(self, other: LowRank) -> float:
        """Return KL(self || other), in nats, by Woodbury's identity."""
        away = other.mean - self.mean
        scaled = other.factors / other.noise[:, None]
        inner = other._inner()
        # Of the inverse of the other's covariance: D - B inner^-1 B'.
        quadratic = away @ (away / other.noise) - _form(scaled.T @ away[:, None], inner)
        trace = np.sum(self.noise / other.noise) - _form(scaled.T * np.sqrt(self.noise), inner)
        trace += np.sum(self.factors**2 / other.noise[:, None])
        trace -= _form(scaled.T @ self.factors, inner)
        return 0.5 * float(trace - len(away) + quadratic + other._log_det() - self._log_det())

    def _inner(self) -> np.ndarray:
        rank = self.factors.shape[1]
        inner: np.ndarray = np.eye(rank) + self.factors.T @ (self.factors / self.noise[:, None])
        return inner

    def _log_det(self) -> float:
        return float(np.sum(np.log(self.noise)) + np.linalg.slogdet(self._inner())[1])

    def set(self, group: Group) -> None:
        """Set a low-rank group to this."""
        rho = softplus_inverse(np.sqrt(self.noise))
        set_values(group, {"mu": self.mean, "rho": rho, "W": self.factors})


def _form(columns: np.ndarray, inner: np.ndarray) -> float:
    """Return the trace of C' inner^-1 C."""
    return float(np.sum(columns * np.linalg.solve(inner, columns)))


def kind_of(group: Group) -> type[Dense] | type[LowRank]:
    """Return the kind of Gaussian that a group is, which reads and sets it.

    Raises
    ------
    TypeError
        If its family has none.
    """
    # Families name their kinds, so that they import this module.
    from pymc_vi_ext.approximations.table import family_of

    kind = family_of(group).gaussian_kind()
    if kind is None:
        raise TypeError(
            f"{type(group).__name__} is no Gaussian of full or of low rank, whose mean and "
            'covariance could be averaged: use the family "full_rank" or "low_rank".'
        )
    return kind
