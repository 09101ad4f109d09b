"""What the command line was asked for, checked before anything is written."""

from __future__ import annotations

import os

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import typer

from pymc_vi_ext.tracking import (
    URI_VARIABLE,
    absolute_uri,
    check_folder,
    folder_beside,
    open_tracker,
    without_password,
)

from .configurations import configuration_path

if TYPE_CHECKING:
    from pymc_vi_ext.comparison.config import ComparisonConfig
    from pymc_vi_ext.comparison.processes import Run
    from pymc_vi_ext.comparison.workspace import ExecutionFolder

BAD_INPUT, METHOD_FAILED, INTERRUPTED = 2, 1, 130
"""Exit statuses."""


@dataclass(frozen=True)
class Asked:
    """What to compare, checked.

    Attributes
    ----------
    path : str
        Of the configuration.
    parsed : ComparisonConfig
    uri : str
        Of the tracker, absolute.
    allow_code : bool
    folder : str
        The workspace, absolute.
    changes, only : list of str
    comparison : str or None
        Which one of a suite.
    variables : str
        Names of the model's free variables.
    data : str
        A digest of a model outside the zoo, which may read data that nobody else knows of.
    """

    path: str
    parsed: ComparisonConfig
    uri: str
    allow_code: bool
    folder: str
    changes: list[str]
    only: list[str]
    comparison: str | None
    variables: str
    data: str

    @property
    def shown_uri(self) -> str:
        """The URI as it is stored and printed."""
        return without_password(self.uri)

    def parameters(self, token: str) -> dict[str, Any]:
        """Return what the flow is called with."""
        return {
            "config": self.path,
            "tracking_uri": self.shown_uri,
            "allow_code": self.allow_code,
            "folder": self.folder,
            "token": token,
            "changes": self.changes,
            "only": self.only,
            "comparison": self.comparison,
        }

    def execution(self, token: str) -> tuple[ExecutionFolder, list[Run]]:
        """Return where it lies in its workspace, and its runs."""
        from .executions import execution_of

        return execution_of(
            self.parsed, self.path, self.allow_code, self.shown_uri, self.folder, token
        )


def checked(
    config: str,
    tracking_uri: str,
    allow_code: bool,
    folder: Path | None = None,
    changes: list[str] | None = None,
    only: list[str] | None = None,
) -> list[Asked]:
    """Check the comparison, or all those of a suite, or leave with a sentence; write nothing."""
    from pymc_vi_ext.comparison.config import suite_names

    uri = absolute(tracking_uri)
    place = str((folder or folder_beside(uri)).resolve())
    # Tasks find the password there, and nowhere else.
    os.environ[URI_VARIABLE] = uri
    try:
        path = configuration_path(config)
        names: list[str | None] = [*suite_names(path, changes=changes or [])]
        return [
            _checked(path, uri, allow_code, place, changes or [], only or [], name)
            for name in names or [None]
        ]
    except ValueError as error:
        refuse(error)


def _checked(
    path: Path,
    uri: str,
    allow_code: bool,
    folder: str,
    changes: list[str],
    only: list[str],
    name: str | None,
) -> Asked:
    """Check one comparison, its model and reference included."""
    from pymc_vi_ext.comparison.config import (
        build_model,
        check_methods,
        check_reference,
        load_config,
    )
    from pymc_vi_ext.comparison.workspace import fingerprint

    parsed = load_config(path, allow_code=allow_code, changes=changes, only=only, comparison=name)
    model = build_model(parsed, path, allow_code=allow_code)
    check_methods(parsed, model, path)
    check_reference(parsed, path, model)
    data = fingerprint(model) if ":" in parsed.model else ""
    variables = ", ".join(rv.name for rv in model.free_RVs)
    place = str(path.resolve())
    return Asked(place, parsed, uri, allow_code, folder, changes, only, name, variables, data)


def absolute(tracking_uri: str) -> str:
    """Return the URI as it is from any folder, or leave with one sentence."""
    try:
        return absolute_uri(tracking_uri)
    except ValueError as error:
        refuse(error)


def check_places(asked: Asked) -> None:
    """Leave with one sentence if tracker or workspace cannot be written to now."""
    check_tracker(asked.uri)
    try:
        check_folder(Path(asked.folder))
    except ConnectionError as error:
        refuse(error)


def check_tracker(uri: str) -> None:
    """Leave with one sentence if nothing can be kept there now."""
    try:
        open_tracker(uri).check()
    except (ConnectionError, ImportError) as error:
        refuse(error)


def refuse(error: Exception) -> NoReturn:
    """Leave with one sentence."""
    typer.echo(str(error), err=True)
    raise typer.Exit(BAD_INPUT)
