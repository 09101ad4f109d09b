"""NumPy generators as JAX keys and back, without loss."""

import jax
import numpy as np

_WORD = 64
# PCG64 takes any odd increment; a fixed one makes the conversion invertible.
_INCREMENT = 0x5851F42D4C957F2D14057B7EF767814F


def key_data(generator: np.random.Generator) -> np.ndarray:
    """Return the numbers of the threefry key that stands for the state of `generator`, (2,).

    The high half of PCG64's 128-bit state is the key; other generators give 64 bits of a copy's
    stream. Deterministic, and `generator` does not advance.
    """
    state = generator.bit_generator.state
    if state["bit_generator"] == "PCG64":
        word = state["state"]["state"] >> _WORD
    else:
        twin = type(generator.bit_generator)()
        twin.state = state
        word = int(np.random.Generator(twin).integers(1 << _WORD, dtype=np.uint64, endpoint=False))
    return np.array([word >> 32, word & 0xFFFFFFFF], dtype=np.uint32)


def key_from_generator(generator: np.random.Generator) -> jax.Array:
    """Return the typed key of :func:`key_data`."""
    data = jax.device_put(key_data(generator))
    return jax.random.wrap_key_data(data, impl="threefry2x32")


def generator_from_key(key: np.ndarray) -> np.random.Generator:
    """Return a PCG64 generator from which :func:`key_from_generator` recovers the data of a key."""
    high, low = map(int, key)
    word = high << 32 | low
    bits = np.random.PCG64(0)
    bits.state = {
        "bit_generator": "PCG64",
        "state": {"state": word << _WORD | word, "inc": _INCREMENT},
        "has_uint32": 0,
        "uinteger": 0,
    }
    return np.random.Generator(bits)
