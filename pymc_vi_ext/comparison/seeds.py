"""Seeds of a configuration: a list, or what they are derived from."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
import pydantic

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError

from pymc_vi_ext.comparison._strict import Strict

Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
"""What generators take."""


class SpawnedSeeds(Strict):
    """Seeds that are derived from one."""

    root: Seed = Field(description="The seed that the others are derived from.")
    number: int = Field(ge=1, le=1000, description="How many.")
    key: str = Field(default="", description="Seeds with another key are others.")


def spawned(root: int, number: int, key: str = "") -> list[int]:
    """Derive seeds from one, as :meth:`numpy.random.SeedSequence.spawn` does.

    Parameters
    ----------
    root : int
    number : int
    key : str
        Seeds with another key are others: each comparison of a suite has its own.

    Returns
    -------
    list of int
        The first of them stay the same when more are asked for.

    Examples
    --------
    >>> from pymc_vi_ext.comparison.seeds import spawned
    >>> spawned(1, 3)[:2] == spawned(1, 2)
    True
    """
    entropy = [root, *key.encode()]
    sequences = np.random.SeedSequence(entropy).spawn(number)
    return [int(sequence.generate_state(1)[0]) for sequence in sequences]


def _as_seeds(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    try:
        seeds = SpawnedSeeds.model_validate(value)
    except pydantic.ValidationError as error:
        [problem, *_] = error.errors()
        place = ".".join(map(str, problem["loc"]))
        said = "{place}: {what}"
        what = problem["msg"].lower()
        raise PydanticCustomError("sentence", said, {"place": place, "what": what}) from None
    return spawned(seeds.root, seeds.number, seeds.key)


Seeds = Annotated[
    list[Seed], BeforeValidator(_as_seeds, json_schema_input_type=list[Seed] | SpawnedSeeds)
]
"""Seeds as a list, which a configuration may also give as :class:`SpawnedSeeds`."""
