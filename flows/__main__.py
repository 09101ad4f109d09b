"""The command line: ``python -m flows``, or ``pymc-vi`` where the package is installed."""

from __future__ import annotations

import os
import signal
import uuid

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from rich.console import Console

from pymc_vi_ext.interrupts import held, terminate
from pymc_vi_ext.tracking import (
    BACKENDS,
    DEFAULT_URI,
    URI_VARIABLE,
    absolute_uri,
    folder_beside,
    open_tracker,
    without_password,
)

from .configurations import configuration_path

if TYPE_CHECKING:
    import pymc as pm

    from pymc_vi_ext.comparison.config import ComparisonConfig
    from pymc_vi_ext.comparison.processes import Run
    from pymc_vi_ext.comparison.workspace import ExecutionFolder

app = typer.Typer(
    help="Compare inference methods on a model, with Prefect, and keep what they give.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


class Runner(StrEnum):
    """How runs follow each other."""

    SEQUENTIAL = "sequential"
    PROCESS = "process"


Config = Annotated[
    str, typer.Argument(help="YAML file, or the name of one that comes along, such as mixture.")
]
AllowCode = Annotated[
    bool, typer.Option("--allow-code", help="Let the configuration name a model outside the zoo.")
]
TrackingUri = Annotated[
    str,
    typer.Option(
        envvar=URI_VARIABLE,
        help="Where the runs are kept: "
        + "; ".join(f"{scheme}: {backend.what}" for scheme, backend in BACKENDS.items())
        + ".",
    ),
]
Folder = Annotated[
    Path | None,
    typer.Option(help="Where results lie as soon as there are any; by default beside the tracker."),
]
Changes = Annotated[
    list[str] | None, typer.Option("--set", help="A value of the configuration: draws=200.")
]
Only = Annotated[list[str] | None, typer.Option(help="Label of a method to run, and no others.")]
Fresh = Annotated[bool, typer.Option("--fresh", help="Run again what has finished before.")]
_BAD_INPUT, _METHOD_FAILED, _INTERRUPTED = 2, 1, 130


@app.command()
def compare(
    config: Config,
    tracking_uri: TrackingUri = DEFAULT_URI,
    allow_code: AllowCode = False,
    folder: Folder = None,
    changes: Changes = None,
    only: Only = None,
    fresh: Fresh = False,
    runner: Annotated[
        Runner, typer.Option(help="One run at a time, or one on each core.")
    ] = Runner.SEQUENTIAL,
) -> None:
    """Run a comparison now, or go on with it.

    Every run is a process of its own, and what has finished is kept: the same command again runs
    only what has not. Exit status 1 if a method failed, 2 if the input is wrong, 130 after Ctrl-C
    or SIGTERM.
    """
    console = Console()
    # Prefect would print each failure twice; the table tells it. Before the import of Prefect.
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "CRITICAL")
    asked = _checked(config, tracking_uri, allow_code, folder, changes, only)
    _check_tracker(asked.uri)
    token = uuid.uuid4().hex if fresh else asked.data
    known, _ = asked.execution(token)
    if known.done:
        _show(console, asked, {"table": known.table, "untracked": ""})
        console.print("\nAll of it was there already: --fresh runs it again.")
        return
    signal.signal(signal.SIGTERM, terminate)
    with console.status(f"Comparing methods on {asked.parsed.name} ..."):
        from .compare import Interrupted, MethodsFailed, runner_of
        from .compare import compare as compare_flow
        from .server import server

        workers = (os.cpu_count() or 1) if runner is Runner.PROCESS else 1
        flow = compare_flow.with_options(task_runner=runner_of(workers))
        status = 0
        # Ctrl-C ends the runs that it meets, and never Prefect's own work around them.
        with held(lambda: None), server(scheduling=False):
            try:
                # Typed as the state that it returns; called like this, Prefect unwraps it.
                report: Any = flow(**asked.parameters(token))
            except MethodsFailed as error:
                report = error.report
                status = _INTERRUPTED if isinstance(error, Interrupted) else _METHOD_FAILED
            except OSError as error:
                _refuse(
                    OSError(f"{error}. What has finished is kept, and the same command goes on.")
                )
    _show(console, asked, report)
    if status == _INTERRUPTED:
        console.print("\nInterrupted: the same command again goes on from what has finished.")
    if status:
        raise typer.Exit(status)


@app.command()
def plan(
    config: Config,
    tracking_uri: TrackingUri = DEFAULT_URI,
    allow_code: AllowCode = False,
    folder: Folder = None,
    changes: Changes = None,
    only: Only = None,
) -> None:
    """Say what `compare` would run, and what is there already."""
    from .display import print_plan

    asked = _checked(config, tracking_uri, allow_code, folder, changes, only)
    execution, runs = asked.execution(asked.data)
    print_plan(Console(), asked.parsed.name, runs, execution)


@app.command()
def validate(config: Config, allow_code: AllowCode = False) -> None:
    """Check a configuration, its model included, and run nothing."""
    _, parsed, model = _loaded(config, allow_code, [], [])
    runs = len(parsed.methods) * len(parsed.seeds)
    variables = ", ".join(rv.name for rv in model.free_RVs)
    typer.echo(f"{config} is valid: {runs} runs on {parsed.model} ({variables}).")


@app.command()
def serve(
    config: Config,
    cron: Annotated[str, typer.Option(help='When to run, such as "0 3 * * *": daily at 3.')],
    tracking_uri: TrackingUri = DEFAULT_URI,
    allow_code: AllowCode = False,
    folder: Folder = None,
) -> None:
    """Run a comparison on a schedule, until interrupted."""
    asked = _checked(config, tracking_uri, allow_code, folder)
    from prefect.client.schemas.schedules import CronSchedule
    from prefect.types.entrypoint import EntrypointType

    from .compare import EACH_TIME
    from .compare import compare as compare_flow
    from .server import server

    try:
        CronSchedule(cron=cron)
    except ValueError:
        _refuse(ValueError(f"The schedule {cron!r} is not a cron expression, such as '0 3 * * *'."))
    with server(scheduling=True) as url:
        typer.echo(
            f"{asked.parsed.name}: runs at {cron!r}, until Ctrl-C; Prefect: "
            f"{url.removesuffix('/api')}"
        )
        typer.echo(f"Figures and posteriors: {open_tracker(asked.uri).dashboard()}")
        compare_flow.serve(
            name=asked.parsed.name,
            cron=cron,
            parameters=asked.parameters(EACH_TIME),
            # By its file it would have no package, and find nothing beside it.
            entrypoint_type=EntrypointType.MODULE_PATH,
            print_starting_message=False,
        )


@app.command()
def sync(
    tracking_uri: TrackingUri = DEFAULT_URI,
    folder: Folder = None,
) -> None:
    """Bring to the tracker what it does not have yet, because it was away."""
    from pymc_vi_ext.comparison.workspace import Workspace

    from .executions import catch_up, waiting

    uri = _absolute(tracking_uri)
    _check_tracker(uri)
    found = waiting(Workspace(folder or folder_beside(uri)), without_password(uri))
    for execution in found:
        problem = catch_up(execution)
        typer.echo(f"{execution.path.name}: {problem or 'recorded'}")
        if problem:
            raise typer.Exit(_METHOD_FAILED)
    if not found:
        typer.echo("The tracker has everything.")


@dataclass(frozen=True)
class _Asked:
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
        }

    def execution(self, token: str) -> tuple[ExecutionFolder, list[Run]]:
        """Return where it lies in its workspace, and its runs."""
        from .executions import execution_of

        return execution_of(
            self.parsed, self.path, self.allow_code, self.shown_uri, self.folder, token
        )


def _checked(
    config: str,
    tracking_uri: str,
    allow_code: bool,
    folder: Path | None,
    changes: list[str] | None = None,
    only: list[str] | None = None,
) -> _Asked:
    """Check what the user has said, or leave with one sentence; write nothing."""
    from pymc_vi_ext.comparison.workspace import fingerprint

    changes, only = changes or [], only or []
    path, parsed, model = _loaded(config, allow_code, changes, only)
    data = fingerprint(model) if ":" in parsed.model else ""
    uri = _absolute(tracking_uri)
    place = (folder or folder_beside(uri)).resolve()
    # Tasks find the password there, and nowhere else.
    os.environ[URI_VARIABLE] = uri
    return _Asked(str(path.resolve()), parsed, uri, allow_code, str(place), changes, only, data)


def _loaded(
    config: str, allow_code: bool, changes: list[str], only: list[str]
) -> tuple[Path, ComparisonConfig, pm.Model]:
    """Return path, content and model of a configuration, or leave with one sentence."""
    from pymc_vi_ext.comparison.config import build_model, load_config

    try:
        path = configuration_path(config)
        parsed = load_config(path, allow_code=allow_code, changes=changes, only=only)
        return path, parsed, build_model(parsed, path, allow_code=allow_code)
    except ValueError as error:
        _refuse(error)


def _absolute(tracking_uri: str) -> str:
    try:
        return absolute_uri(tracking_uri)
    except ValueError as error:
        _refuse(error)


def _check_tracker(uri: str) -> None:
    try:
        open_tracker(uri).check()
    except (ConnectionError, ImportError) as error:
        _refuse(error)


def _show(console: Console, asked: _Asked, report: dict[str, Any]) -> None:
    from .display import print_table

    print_table(console, asked.parsed.name, report["table"])
    if report["untracked"]:
        console.print("\nThe tracker does not have all of it: ", end="")
        console.print(report["untracked"], markup=False, soft_wrap=True, highlight=False)
        console.print("`sync` brings the rest once it can.")
        return
    console.print("\nFigures and posteriors:")
    where = open_tracker(asked.uri).dashboard()
    console.print(f"  {where}", markup=False, soft_wrap=True, highlight=False, style="bold")


def _refuse(error: Exception) -> NoReturn:
    typer.echo(str(error), err=True)
    raise typer.Exit(_BAD_INPUT)


def main() -> None:
    """Run the command line, as ``pymc-vi``."""
    app(prog_name="pymc-vi")


if __name__ == "__main__":
    app(prog_name="python -m flows")
