"""What comes with an installation that is no checkout."""

import os
import subprocess
import sys

from pathlib import Path

ROOT = Path(__file__).parents[1]


def run(*command, **options):
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_wheel_has_the_command_line_and_the_examples(tmp_path):
    pip = [sys.executable, "-m", "pip", "--quiet"]
    run(*pip, "wheel", "--no-deps", "--wheel-dir", tmp_path, ROOT)
    [wheel] = tmp_path.glob("*.whl")
    run(*pip, "install", "--no-deps", "--target", tmp_path / "site", wheel)
    env = os.environ | {"PYTHONPATH": str(tmp_path / "site")}
    command = tmp_path / "site" / "bin" / "pymc-vi"
    said = run(sys.executable, command, "plan", "gamma", cwd=tmp_path, env=env)
    assert "runs would take place" in said
    assert not (tmp_path / "site" / "flows").exists()
    where = "import pymc_vi_ext.flows.compare as c; print(c.__file__)"
    found = run(sys.executable, "-c", where, cwd=tmp_path, env=env)
    assert found.startswith(str(tmp_path / "site"))
