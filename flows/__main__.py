"""The command line: ``python -m flows compare | validate | serve``."""

from __future__ import annotations

import os

from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from rich.console import Console

from pymc_vi_ext.interrupts import held
from pymc_vi_ext.tracking import BACKENDS, DEFAULT_URI, URI_VARIABLE, absolute_uri, open_tracker

app = typer.Typer(
    help="Compare inference methods on a model, with Prefect, and keep what they give.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Config = Annotated[Path, typer.Argument(help="YAML file, such as configs/mixture.yaml.")]
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
_BAD_INPUT, _METHOD_FAILED, _INTERRUPTED = 2, 1, 130


@app.command()
def compare(
    config: Config, tracking_uri: TrackingUri = DEFAULT_URI, allow_code: AllowCode = False
) -> None:
    """Run a comparison now.

    Exit status 1 if a method failed, 2 if the input is wrong, 130 after Ctrl-C.
    """
    console = Console()
    # Prefect would print each failure twice; the table tells it. Before the import of Prefect.
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "CRITICAL")
    name, tracking_uri = _check(config, tracking_uri, allow_code)
    with console.status(f"Comparing methods on {name} ..."):
        from flows.compare import Interrupted, MethodsFailed
        from flows.compare import compare as compare_flow
        from flows.display import print_table

        status = 0
        # Ctrl-C ends the method that runs, and never Prefect's own work around it.
        with held(lambda: None):
            try:
                # Typed as the state that it returns; called like this, Prefect unwraps it.
                report: Any = compare_flow(str(config), tracking_uri, allow_code)
            except MethodsFailed as error:
                report = error.report
                status = _INTERRUPTED if isinstance(error, Interrupted) else _METHOD_FAILED
    print_table(console, name, report["table"])
    console.print("\nFigures and posteriors:")
    where = open_tracker(tracking_uri).dashboard()
    console.print(f"  {where}", markup=False, soft_wrap=True, highlight=False, style="bold")
    if status:
        raise typer.Exit(status)


@app.command()
def validate(config: Config, allow_code: AllowCode = False) -> None:
    """Check a configuration, its model included, and run nothing."""
    from pymc_vi_ext.comparison.config import ConfigError, build_model, load_config

    try:
        parsed = load_config(config, allow_code=allow_code)
        model = build_model(parsed, config, allow_code=allow_code)
    except ConfigError as error:
        _refuse(error)
    runs = len(parsed.methods) * len(parsed.seeds)
    variables = ", ".join(rv.name for rv in model.free_RVs)
    typer.echo(f"{config} is valid: {runs} runs on {parsed.model} ({variables}).")


@app.command()
def serve(
    config: Config,
    cron: Annotated[str, typer.Option(help='When to run, such as "0 3 * * *": daily at 3.')],
    tracking_uri: TrackingUri = DEFAULT_URI,
    allow_code: AllowCode = False,
) -> None:
    """Run a comparison on a schedule, until interrupted."""
    name, tracking_uri = _check(config, tracking_uri, allow_code)
    from prefect.client.schemas.schedules import CronSchedule

    from flows.compare import compare as compare_flow
    from flows.server import server

    try:
        CronSchedule(cron=cron)
    except ValueError:
        _refuse(ValueError(f"The schedule {cron!r} is not a cron expression, such as '0 3 * * *'."))
    with server() as url:
        typer.echo(f"{name}: runs at {cron!r}, until Ctrl-C; Prefect: {url.removesuffix('/api')}")
        typer.echo(f"Figures and posteriors: {open_tracker(tracking_uri).dashboard()}")
        compare_flow.serve(
            name=name,
            cron=cron,
            parameters={
                "config": str(config.resolve()),
                "tracking_uri": tracking_uri,
                "allow_code": allow_code,
            },
            print_starting_message=False,
        )


def _check(config: Path, tracking_uri: str, allow_code: bool) -> tuple[str, str]:
    """Return name of the comparison and absolute tracking URI, or leave with one sentence."""
    from pymc_vi_ext.comparison.config import ConfigError, build_model, load_config

    try:
        parsed = load_config(config, allow_code=allow_code)
        build_model(parsed, config, allow_code=allow_code)
        return parsed.name, absolute_uri(tracking_uri)
    except (ConfigError, ValueError) as error:
        _refuse(error)


def _refuse(error: Exception) -> NoReturn:
    typer.echo(str(error), err=True)
    raise typer.Exit(_BAD_INPUT)


if __name__ == "__main__":
    app(prog_name="python -m flows")
