"""The console command ``pymc-vi``."""

from __future__ import annotations

from importlib import import_module


def main() -> None:
    """Run the command line of comparisons."""
    try:
        import typer  # noqa: F401
    except ImportError:
        raise SystemExit(
            "The command line needs what `pip install 'pymc-vi-ext[flows]'` brings."
        ) from None
    try:
        # Where it is installed; in a checkout flows are at its top.
        line = import_module("pymc_vi_ext.flows.__main__")
    except ModuleNotFoundError as error:
        if error.name != "pymc_vi_ext.flows":
            raise
        line = import_module("flows.__main__")
    line.main()
