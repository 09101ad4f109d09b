"""What a comparison is of, who ran it and how it is run again."""

from __future__ import annotations

import contextlib
import getpass
import platform
import subprocess

from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path

# Seconds that git may take.
_PATIENCE = 5.0


@dataclass(frozen=True)
class About:
    """What a comparison is of, for those who read its runs.

    Attributes
    ----------
    title : str
        Name of the comparison.
    model : str
        Name of the model; empty if it has none.
    source : str
        The file that describes the comparison; empty if there is none.
    command : str
        What runs it again; empty if there is no such command.

    Examples
    --------
    >>> from pymc_vi_ext.tracking import About
    >>> About(title="waits", model="gamma").tags()["model"]
    'gamma'
    """

    title: str = "Comparison"
    model: str = ""
    source: str = ""
    command: str = ""

    def tags(self) -> dict[str, str]:
        """Return what its runs are found by: model, user, source, and its commit in git.

        Returns
        -------
        dict of str to str
            Without those that are not known.
        """
        tags = {"model": self.model, "user": _user(), "source": self.source}
        tags["commit"] = _commit(Path(self.source)) if self.source else ""
        return {key: value for key, value in tags.items() if value}


def environment() -> str:
    """Return the machine and all installed packages with their versions, a line each.

    Returns
    -------
    str

    Examples
    --------
    >>> from pymc_vi_ext.tracking.about import environment
    >>> "pymc==" in environment()
    True
    """
    packages = sorted(
        {f"{found.name}=={found.version}" for found in distributions()}, key=str.lower
    )
    machine = f"# Python {platform.python_version()}, {platform.platform()}"
    return "\n".join([machine, *packages, ""])


def _user() -> str:
    # In a container there may be no name for the number.
    with contextlib.suppress(OSError, KeyError, ImportError):
        return getpass.getuser()
    return ""


def _commit(file: Path) -> str:
    """Return the commit of the checkout that a file is in; none of a file that git ignores."""

    def git(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = ["git", "-C", str(file.parent), *arguments]
        return subprocess.run(
            command, capture_output=True, text=True, timeout=_PATIENCE, check=False
        )

    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        head = git("rev-parse", "HEAD")
        # As in an environment inside of a checkout. 1 says that it is not ignored.
        if head.returncode == 0 and git("check-ignore", "-q", str(file)).returncode == 1:
            return head.stdout.strip()
    return ""
