"""Traces of losses in few points."""

from __future__ import annotations

import numpy as np


def growing_blocks(
    losses: np.ndarray, *, after: int = 0, whole: bool = False, shortest: int = 1, part: int = 40
) -> tuple[np.ndarray, np.ndarray]:
    """Return means of the ELBO over blocks that grow with the steps.

    Where a block begins and ends does not depend on how many there are, so that those of a fit
    that still runs stay what they are when it has ended. The last may be shorter.

    Parameters
    ----------
    losses : numpy.ndarray, shape (steps,)
        Negative ELBO in nats.
    after : int
        Last step of a block; only those behind it are returned.
    whole : bool
        Whether to leave out the last one where it is shorter than its place.
    shortest : int
        Steps of a block at least.
    part : int
        A block has this part of the steps before it: a fortieth gives some 360 blocks of 100,000
        steps, 540 of ten million.

    Returns
    -------
    steps : numpy.ndarray of int
        Last step of each block, counted from 1.
    elbo : numpy.ndarray
        Mean ELBO (the negative of the losses) over each block, in nats.

    Examples
    --------
    >>> import numpy as np
    >>> from pymc_vi_ext.traces import growing_blocks
    >>> growing_blocks(np.array([4.0, 2.0, 1.0, 3.0, 5.0]), part=1)
    (array([1, 2, 4, 5]), array([-4., -2., -2., -5.]))
    """
    losses = np.asarray(losses, dtype=float)
    ends: list[int] = []
    means: list[float] = []
    while after < losses.size:
        end = after + max(shortest, after // part)
        if whole and end > losses.size:
            break
        block = losses[after:end]
        # Each by itself: its last bit does not depend on the others.
        means.append(-float(block.mean()))
        after += block.size
        ends.append(after)
    return np.array(ends, int), np.array(means)
