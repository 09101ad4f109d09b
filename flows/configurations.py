"""Where configurations are found."""

from __future__ import annotations

from pathlib import Path

# Beside this package: in a checkout at its top, in what is installed within the package.
EXAMPLES = Path(__file__).parents[1] / "configs"


def examples() -> dict[str, Path]:
    """Return the configurations that come along, by name."""
    files = [*sorted(EXAMPLES.glob("*.yaml")), *sorted(EXAMPLES.glob("suites/*.yaml"))]
    return {file.stem: file for file in files}


def configuration_path(config: str) -> Path:
    """Return the file of a configuration, given by its path or by the name of one that comes along.

    Raises
    ------
    ValueError
        If there is neither.
    """
    path = Path(config)
    if path.suffix or _exists(path):
        return path
    found = examples().get(config)
    if found is None:
        known = ", ".join(examples())
        raise ValueError(
            f"There is no configuration {config[:60]!r}: give a YAML file, or one of {known}."
        )
    return found


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # longer than any name of a file, for instance
        return False
