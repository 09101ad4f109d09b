"""What README, CONTRIBUTING and docs tell a reader to type: Python, configurations, commands.

Cells of the pages (``{code-cell}``) run while the documentation builds; everything else is here.
"""

import re
import shlex

from pathlib import Path

import pytest
import typer

from flows.__main__ import app
from flows.configurations import examples
from pymc_vi_ext.comparison import load_config
from pymc_vi_ext.comparison.config import build_model, check_methods, suite_names

ROOT = Path(__file__).parents[1]
PAGES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in [
        *ROOT.glob("*.md"),
        *(p for p in ROOT.glob("docs/**/*.md") if p.parts[-2] not in ("_build", "generated")),
    ]
    if "_build" not in path.parts and "jupyter_execute" not in path.parts
}
# Blocks of Python that run elsewhere, and where.
ELSEWHERE = {"CONTRIBUTING.md": "tests/test_recipes.py writes them to files, and undoes the rows"}
# Programs of others that a console block may start.
PROGRAMS = {
    "cd", "dask", "export", "git", "mlflow", "pip", "prefect", "ray", "sudo",
}  # fmt: skip
MAKEFILE = (ROOT / "Makefile").read_text()
COMMANDS = typer.main.get_command(app)
# Typer has its own copy of click, or click itself, by its version.
WRONG = (typer.BadParameter.__mro__[1], AssertionError)


def blocks(page, language):
    """Return the code blocks of a page in a language, without their indentation."""
    found = re.findall(rf"^( *)```{language}\n(.*?)^\1```$", PAGES[page], re.MULTILINE | re.DOTALL)
    return [re.sub(rf"^{indent}", "", code, flags=re.MULTILINE) for indent, code in found]


def with_blocks(language):
    return sorted(page for page in PAGES if blocks(page, language))


def commands(page):
    """Return what a page has its reader type, in console blocks and in the prose."""
    typed = []
    for block in blocks(page, "console"):
        lines = block.replace("\\\n", " ").splitlines()
        prompts = any(line.startswith("$ ") for line in lines)
        typed += [line.removeprefix("$ ") for line in lines if not prompts or line.startswith("$ ")]
    prose = re.sub(r"^( *)```.*?^\1```$", "", PAGES[page], flags=re.MULTILINE | re.DOTALL)
    prose = prose.replace("\n", " ")
    typed += re.findall(r"`((?:pymc-vi|python -m flows) [^\s`]+ [^`]+|make [^`]+)`", prose)
    typed += [
        f"pymc-vi {n} ..." for n in re.findall(r"`(?:pymc-vi|python -m flows) ([^\s`]+)`", prose)
    ]
    return [words for line in typed if (words := shlex.split(line, comments=True))]


@pytest.mark.parametrize("page", [page for page in with_blocks("python") if page not in ELSEWHERE])
def test_python_runs_as_written(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "__main__"}
    for number, block in enumerate(blocks(page, "python"), 1):
        exec(compile(block, f"{page}, block {number}", "exec"), names)


@pytest.mark.parametrize("page", with_blocks("yaml"))
def test_configurations_are_valid(page, tmp_path):
    for number, block in enumerate(blocks(page, "yaml"), 1):
        path = tmp_path / f"{number}.yaml"
        path.write_text(block)
        for name in suite_names(path) or [None]:
            config = load_config(path, allow_code=True, comparison=name)
            if ":" not in config.model:
                check_methods(config, build_model(config, path), path)


@pytest.mark.parametrize("page", [page for page in sorted(PAGES) if commands(page)])
def test_commands_exist(page):
    for words in commands(page):
        # Environment variables before a command, and the folder of an environment.
        while re.match(r"\w+=", words[0]):
            words = words[1:]
        program = words[0].rpartition("/")[2]
        if program == "pymc-vi":
            check_command_line(words[1:])
        elif program == "make":
            check_targets(words[1:])
        elif program.startswith("python"):
            check_python(words[1:])
        else:
            assert program in PROGRAMS, words
            if program == "pip":
                check_extras(" ".join(words))


def check_command_line(words):
    """Parse a line as ``pymc-vi`` does, and find its configuration."""
    if words[1:] == ["..."]:  # named in the prose, with whatever it takes
        assert words[0] in COMMANDS.commands, words
        return
    name, command, rest = COMMANDS.resolve_command(COMMANDS.context_class(COMMANDS), words)
    context = command.make_context(name, list(rest))
    given = context.params.get("configs") or [context.params.get("config")]
    for config in filter(None, given):
        if "/" in config:
            assert (ROOT / config).is_file(), words
        elif config != "..." and not config.endswith(".yaml"):  # a file of the reader's own
            assert config in examples(), words


def check_targets(words):
    """Find the targets of a line of make, its variables, and the configuration."""
    for word in words:
        variable, is_set, value = word.partition("=")
        if not is_set:
            assert re.search(rf"^{re.escape(word)}:", MAKEFILE, re.MULTILINE), word
        else:
            assert re.search(rf"^{variable} \?=|\$\({variable}\)", MAKEFILE, re.MULTILINE), word
            assert variable != "CONFIG" or (ROOT / value).is_file(), word


def check_python(words):
    """Find the module or the file that Python runs."""
    if words[0] == "-m" and words[1] == "flows":
        check_command_line(words[2:])
    elif words[0] == "-m":
        assert words[1] in ("pip", "venv"), words
    else:
        assert (ROOT / words[0]).is_file(), words


def check_extras(line):
    declared = (ROOT / "pyproject.toml").read_text().partition("[project.optional-dependencies]")[2]
    for extras in re.findall(r"\[([\w,]+)\]", line):
        for extra in extras.split(","):
            assert re.search(rf"^{extra} = \[", declared, re.MULTILINE), line


@pytest.mark.parametrize(
    "line",
    ["pymc-vi compare no-such", "pymc-vi compare gamma --no-such", "pymc-vi no-such",
     "pymc-vi compare configs/no-such.yaml", "pymc-vi compare gamma --runner no-such"],
)  # fmt: skip
def test_wrong_lines_are_seen(line):
    with pytest.raises(WRONG):
        check_command_line(line.split()[1:])


@pytest.mark.parametrize("line", ["no-such", "compare NO_SUCH=1", "compare CONFIG=configs/no.yaml"])
def test_wrong_targets_are_seen(line):
    with pytest.raises(AssertionError):
        check_targets(line.split())
