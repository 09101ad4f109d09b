"""The command line: ``python -m flows``, or ``pymc-vi`` where the package is installed."""

from __future__ import annotations

import json
import os

from pathlib import Path
from typing import Annotated

import typer

from rich.console import Console

from pymc_vi_ext.tracking import (
    BACKENDS,
    DEFAULT_URI,
    URI_VARIABLE,
    folder_beside,
    open_tracker,
    without_password,
)

from .asked import METHOD_FAILED, Asked, absolute, check_places, check_tracker, checked, refuse
from .configurations import configuration_path
from .runners import Runner

app = typer.Typer(
    help="Compare inference methods on a model, with Prefect, and keep what they give.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


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
_HOW = "One run at a time, one on each core, or as many as a cluster takes."
Regression = Annotated[
    bool, typer.Option("--regression", help="Run all again, and fail if it is worse than before.")
]
RunnerOption = Annotated[Runner, typer.Option(help=_HOW)]
Address = Annotated[
    str | None,
    typer.Option(help="Of a running cluster: tcp://host:8786 (dask), ray://host:10001 (ray)."),
]


@app.command()
def compare(
    config: Config,
    tracking_uri: TrackingUri = DEFAULT_URI,
    allow_code: AllowCode = False,
    folder: Folder = None,
    changes: Changes = None,
    only: Only = None,
    fresh: Fresh = False,
    regression: Regression = False,
    runner: RunnerOption = Runner.SEQUENTIAL,
    address: Address = None,
) -> None:
    """Run a comparison now, or go on with it.

    Every run is a process of its own, and what has finished is kept: the same command again runs
    only what has not. Exit status 1 if a method failed or, with --regression, has become worse, 2
    if the input is wrong, 130 after Ctrl-C or SIGTERM.
    """
    asked = checked(config, tracking_uri, allow_code, folder, changes, only)
    if asked[0].comparison is not None:
        refuse(ValueError(f"{config} is a suite of several models: run it with `suite`."))
    _run(asked, fresh, regression, runner, address)


@app.command()
def suite(
    config: Config,
    tracking_uri: TrackingUri = DEFAULT_URI,
    allow_code: AllowCode = False,
    folder: Folder = None,
    changes: Changes = None,
    only: Only = None,
    fresh: Fresh = False,
    regression: Regression = False,
    runner: RunnerOption = Runner.SEQUENTIAL,
    address: Address = None,
) -> None:
    """Run the comparisons of a suite, models times methods times seeds, or go on with them.

    As `compare` does it, a model after the other, and a table of all at the end.
    """
    asked = checked(config, tracking_uri, allow_code, folder, changes, only)
    if asked[0].comparison is None:
        refuse(ValueError(f"{config} has no `models`, so it is no suite: run it with `compare`."))
    _run(asked, fresh, regression, runner, address)


def _run(
    asked: list[Asked], fresh: bool, regression: bool, runner: Runner, address: str | None
) -> None:
    from .running import run_all

    if regression and asked[0].only:
        refuse(ValueError("--regression judges the whole table: leave out --only."))
    check_places(asked[0])
    status = run_all(
        Console(), asked, fresh=fresh, judged=regression, runner=runner, address=address
    )
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
    """Say what `compare` or `suite` would run, roughly how long, and what is there already."""
    from pymc_vi_ext.comparison.durations import expected_seconds
    from pymc_vi_ext.comparison.workspace import Workspace

    from .display import print_plan

    for one in checked(config, tracking_uri, allow_code, folder, changes, only):
        execution, runs = one.execution(one.data)
        seconds = expected_seconds(runs, Workspace(Path(one.folder)).results())
        print_plan(Console(), one.parsed.name, runs, execution, seconds)


@app.command()
def validate(config: Config, allow_code: AllowCode = False) -> None:
    """Check a configuration, its models included, and run nothing."""
    for one in checked(config, DEFAULT_URI, allow_code):
        runs = len(one.parsed.methods) * len(one.parsed.seeds)
        what = one.comparison or configuration_path(config)
        typer.echo(f"{what} is valid: {runs} runs on {one.parsed.model} ({one.variables}).")


@app.command()
def serve(
    configs: Annotated[
        list[str], typer.Argument(help="YAML files, or names of some that come along.")
    ],
    cron: Annotated[
        str, typer.Option(help='When to run, in place of what they say: "0 3 * * *", daily at 3.')
    ] = "",
    tracking_uri: TrackingUri = DEFAULT_URI,
    allow_code: AllowCode = False,
    folder: Folder = None,
) -> None:
    """Run comparisons on their schedules, one at a time, until Ctrl-C or SIGTERM.

    Each is held against the last good one of its name; one that has become worse fails.
    """
    changes = [f"schedule.cron={json.dumps(cron)}"] if cron else []
    asked = [
        one
        for config in configs
        for one in checked(config, tracking_uri, allow_code, folder, changes)
    ]
    from .compare import EACH_TIME
    from .serving import AlreadyServed, Served, ServerLost
    from .serving import serve as serve_all

    served = []
    for each in asked:
        schedule = each.parsed.schedule
        if schedule is None:
            refuse(
                ValueError(
                    f"{each.path} does not say when to run: give it a key `schedule: {{cron: 0 3 "
                    '* * *}`, or give --cron "0 3 * * *".'
                )
            )
        parameters = each.parameters(EACH_TIME) | {"judged": True}
        served.append(Served(each.parsed.name, schedule.cron, schedule.timezone, parameters))
        webhook = each.parsed.webhook
        if webhook and webhook not in os.environ:
            refuse(ValueError(f"{each.path}: webhook: the environment has no {webhook}."))
    names = [each.name for each in served]
    if len(set(names)) < len(names):
        refuse(ValueError(f"The comparisons {', '.join(names)} need different names."))

    def say(page: str) -> None:
        for each in served:
            typer.echo(f"{each.name}: runs at {each.cron!r} ({each.timezone})")
        typer.echo(f"Until Ctrl-C or SIGTERM. Prefect: {page}")
        typer.echo(f"Figures and posteriors: {open_tracker(asked[0].uri).dashboard()}")

    try:
        serve_all(served, say)
    except AlreadyServed as error:
        refuse(error)
    except ServerLost as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(METHOD_FAILED) from None


@app.command()
def accept(
    config: Config,
    tracking_uri: TrackingUri = DEFAULT_URI,
    allow_code: AllowCode = False,
    folder: Folder = None,
) -> None:
    """Take the last table as good, worse as it may be: later ones are held against it."""
    from pymc_vi_ext.comparison.workspace import Workspace

    from .regression import judgements_in

    for one in checked(config, tracking_uri, allow_code, folder):
        found = judgements_in(Workspace(Path(one.folder)), one.parsed.name)
        if not found:
            refuse(ValueError(f"No table of {one.parsed.name} in {one.folder} was judged."))
        found[-1].accept()
        typer.echo(f"{one.parsed.name}: the table of {found[-1].date} is the one to compare with.")


@app.command()
def report(
    run_id: Annotated[str, typer.Argument(help="Of an execution, the parent run, in the tracker.")],
    tracking_uri: TrackingUri = DEFAULT_URI,
    to: Annotated[
        Path | None, typer.Option(help="Folder for table and figures; report-RUN_ID if none.")
    ] = None,
) -> None:
    """Make table and figures again from what the tracker holds of a comparison."""
    from .reports import write_report

    uri = absolute(tracking_uri)
    check_tracker(uri)
    place = to or Path(f"report-{run_id.replace('/', '-')}")
    try:
        write_report(Console(), open_tracker(uri), run_id, place)
    except ValueError as error:
        refuse(error)
    typer.echo(f"\nTable and figures: {place}")


@app.command()
def doctor(tracking_uri: TrackingUri = DEFAULT_URI, folder: Folder = None) -> None:
    """Say whether versions, tracker, disk and Prefect are as a comparison needs them.

    Exit status 1 if something is not.
    """
    from .doctor import examine

    uri = absolute(tracking_uri)
    findings = examine(uri, folder or folder_beside(uri))
    for finding in findings:
        mark = typer.style("ok", fg="green") if finding.fine else typer.style("NOT", fg="red")
        typer.echo(f"{mark:>3}  {finding.what}: {finding.said}")
    if not all(finding.fine for finding in findings):
        raise typer.Exit(METHOD_FAILED)


@app.command()
def sync(
    tracking_uri: TrackingUri = DEFAULT_URI,
    folder: Folder = None,
) -> None:
    """Bring to the tracker what it does not have yet, because it was away."""
    from pymc_vi_ext.comparison.workspace import Workspace

    from .executions import catch_up, waiting

    uri = absolute(tracking_uri)
    check_tracker(uri)
    found = waiting(Workspace(folder or folder_beside(uri)), without_password(uri))
    for execution in found:
        problem = catch_up(execution)
        typer.echo(f"{execution.path.name}: {problem or 'recorded'}")
        if problem:
            raise typer.Exit(METHOD_FAILED)
    if not found:
        typer.echo("The tracker has everything.")


def main() -> None:
    """Run the command line, as ``pymc-vi``."""
    app(prog_name="pymc-vi")


if __name__ == "__main__":
    app(prog_name="python -m flows")
