"""PyTensor without compilers, for work that is done once."""

from contextlib import AbstractContextManager

import pytensor


def python_only() -> AbstractContextManager[None]:
    """Keep PyTensor from calling a C++ compiler while the context is open.

    What it evaluates while it rewrites a graph, and functions called once, are quicker in Python
    than any compiler starts.
    """
    flags: AbstractContextManager[None] = pytensor.config.change_flags(cxx="", traceback__limit=0)
    return flags
