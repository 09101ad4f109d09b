"""What the command line says of configurations that are malformed or hostile."""

import pytest

from typer.testing import CliRunner

from flows.__main__ import app

GOOD = "name: x\nmodel: gamma\nparameters: {n: 20}\nmethods: [{name: nuts}]\n"


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")  # put back afterwards, whatever commands set
    monkeypatch.delenv("MLFLOW_TRACKING_URI")

    def run(text, command, *more):
        (tmp_path / "c.yaml").write_text(text)
        return CliRunner().invoke(app, [command, "c.yaml", *more])

    return run


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (GOOD + "name: y", "c.yaml: line 5: the key 'name' is there twice, first in line 1."),
        (GOOD + "seeds: [true]", "c.yaml: seeds[0]: needs a whole number, not True."),
        (GOOD.replace("n: 20", "n: -1"), "c.yaml: parameters: n must be a whole number from 1 to"),
        (GOOD.replace("gamma", "canary.py:f"), "c.yaml: model: canary.py:f is code outside the z"),
        ("a: &a [1]\nb: &b [" + "*a, " * 3_000, "c.yaml: line 2: more than 5,000 values, which no"),
    ],
)
@pytest.mark.parametrize("command", ["validate", "compare", "plan"])
def test_a_bad_configuration_is_a_sentence_and_exit_status_2(
    run, tmp_path, command, text, sentence
):
    (tmp_path / "canary.py").write_text("raise SystemExit('imported')")
    result = run(text, command)
    assert result.exit_code == 2
    assert result.stderr.startswith(sentence)
    assert len(result.output) < 1_000
    assert {path.name for path in tmp_path.iterdir()} == {"c.yaml", "canary.py"}


def test_code_that_raises_when_it_is_loaded_is_a_sentence_too(run, tmp_path):
    (tmp_path / "mine.py").write_text("x = 1 / 0")
    result = run(GOOD.replace("gamma", "mine.py:f"), "validate", "--allow-code")
    assert result.exit_code == 2
    assert "mine.py:f cannot be loaded: ZeroDivisionError: division by zero." in result.stderr


@pytest.mark.parametrize("config", ["x" * 5_000, "\udcff", "a\0b", "..", "/dev/zero"])
def test_what_is_no_file_is_a_sentence(run, config):
    result = CliRunner().invoke(app, ["validate", config])
    assert result.exit_code == 2
    assert isinstance(result.exception, SystemExit)


def test_names_are_no_markup(run):
    result = run(GOOD.replace("name: x", "name: '[red]x[-bold]'"), "plan")
    assert result.exit_code == 0
    assert "[red]x[-bold]" in result.output
