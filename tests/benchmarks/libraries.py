"""Fit the models of libraries that are built on PyMC, and sample them by NUTS.

Run by ``make bench-clients``, in an environment that has the libraries.
"""

import argparse
import sys
import tempfile

from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from clients.comparing import CHAINS, DRAWS, TUNE, compared
from clients.models import CLIENTS

LIBRARIES = ("bambi", "pymc-marketing", "hssm", "pymc-extras", "pymc")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="*", default=list(CLIENTS), choices=list(CLIENTS))
    given = parser.parse_args()
    versions = ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
    lines = [
        "# Models of other libraries",
        "",
        f"`make bench-clients`; {versions}. Seconds from model to draws, with compilation, of a "
        f"fit and of `pm.sample({DRAWS}, tune={TUNE}, chains={CHAINS})` on two cores. Means and "
        "standard deviations are those of the free variables on the unconstrained space, the worst "
        "of them. *Used* is the largest distance of what the library predicts from both, in "
        "standard deviations over the predictions. A fit that is flagged says so itself: by a "
        "warning, a k-hat above .7, or that its draws are too few.",
        "",
        "| model | method | stop | fit s | NUTS s | mean, sd | sd ratio | used | k-hat | flagged |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name in given.only:
        with tempfile.TemporaryDirectory() as folder:
            row = compared(CLIENTS[name](), Path(folder))
        lines.append(
            f"| {name} | {row.method} | {row.stop_reason} | {row.fit_s:.0f} | {row.nuts_s:.0f} | "
            f"{row.worst_mean:.2f} | {row.worst_sd:.2f} | {row.worst_use:.3f} | {row.khat:.2f} | "
            f"{'yes' if row.flagged else ''} |"
        )
        print(lines[-1], flush=True)
    (given.out / "clients.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
