"""The pages in docs/api list what the package offers: all of it, and nothing else."""

import ast
import dataclasses
import enum
import inspect
import re
import textwrap

from importlib import import_module
from pathlib import Path

import pytest

from pymc_vi_ext.approximations import FAMILIES, FamilyGroup
from pymc_vi_ext.callbacks import RULES
from pymc_vi_ext.inference import METHODS, GroupedADVI
from pymc_vi_ext.objectives import OBJECTIVES
from pymc_vi_ext.zoo import MODELS

DOCS = Path(__file__).parents[1] / "docs"
PAGES = sorted((DOCS / "api").glob("*.md"))
MODULES = [
    "pymc_vi_ext",
    *(
        f"pymc_vi_ext.{name}"
        for name in (
            "approximations",
            "callbacks",
            "comparison",
            "data",
            "diagnostics",
            "engine",
            "inference",
            "objectives",
            "plots",
            "tracking",
            "zoo",
            "zoo.posteriordb",
        )
    ),
]
# They have no `__all__`: everything that they define and that has no underscore.
DEFINING = ["pymc_vi_ext.optimizers", "pymc_vi_ext.results", "pymc_vi_ext.schedules"]
# Steps of what is on the page.
UNLISTED = {"pymc_vi_ext.schedules.half_cosine"}
TABLES = {
    "METHODS": METHODS,
    "FAMILIES": FAMILIES,
    "RULES": RULES,
    "OBJECTIVES": OBJECTIVES,
    "MODELS": MODELS,
}


def listed(page):
    """Return the full names on a page, in their order."""
    names, module, entries = [], "", False
    lines = iter(page.read_text().splitlines())
    for line in lines:
        if found := re.match(r"\.\. currentmodule:: (\S+)", line):
            module = found[1]
        elif found := re.match(r"\.\. (?:rows|py:module):: (\S+)", line):
            names.append(found[1])
        elif found := re.match(r"\.\. py:data:: (\S+)", line):
            names.append(f"{next(lines).split(':module: ')[1]}.{found[1]}")
        elif entries and (found := re.match(r"   (\w\S*)$", line)):
            names.append(f"{module}.{found[1]}")
        if line and not line.startswith(" "):
            entries = line == ".. autosummary::"
    return names


LISTED = [name for page in PAGES for name in listed(page)]


def imported(name):
    """Return what a full name stands for."""
    module, _, attribute = name.rpartition(".")
    try:
        return getattr(import_module(module), attribute)
    except ModuleNotFoundError as error:
        if error.name and error.name.startswith("pymc_vi_ext"):
            raise
        pytest.skip(f"{name} needs {error.name}")


def described(value):
    """Whether a class or a function is on a page, under whichever of its names."""
    same = (name for name in LISTED if name.rpartition(".")[2] == value.__name__)
    return any(imported(name) is value for name in same)


@pytest.mark.parametrize("name", LISTED)
def test_what_is_listed_exists(name):
    assert imported(name) is not None


def test_nothing_is_listed_twice():
    assert sorted(LISTED) == sorted(set(LISTED))


@pytest.mark.parametrize("module", MODULES)
def test_what_is_public_is_listed(module):
    missing = []
    for name in import_module(module).__all__:
        if f"{module}.{name}" in LISTED:
            continue
        value = imported(f"{module}.{name}")
        if not (hasattr(value, "__name__") and described(value)):
            missing.append(f"{module}.{name}")
    assert not missing


@pytest.mark.parametrize("module", DEFINING)
def test_what_a_module_defines_is_listed(module):
    missing = [
        name
        for name, value in vars(import_module(module)).items()
        if not name.startswith("_")
        and (inspect.isclass(value) or inspect.isroutine(value))
        and value.__module__ == module
        and not described(value)
    ]
    assert not {f"{module}.{name}" for name in missing} - UNLISTED


@pytest.mark.parametrize("table", TABLES)
def test_rows_of_tables_are_listed(table):
    rows = TABLES[table].items()
    kinds = {name: row if hasattr(row, "__name__") else type(row) for name, row in rows}
    assert not {name for name, kind in kinds.items() if not described(kind)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_pages_are_in_the_index(page):
    index = (DOCS / "api.md").read_text()
    assert f"(api/{page.name})" in index
    assert f"\napi/{page.stem}\n" in index


METHOD_TYPES = {method.__name__: method for method in [*METHODS.values(), GroupedADVI]}


@pytest.mark.parametrize("name", METHOD_TYPES)
def test_documented_parameters_are_those_of_the_signature(name):
    method = METHOD_TYPES[name]
    documented = inspect.getdoc(method).split("\nParameters\n----------\n")[1].split("\n\n")[0]
    named = re.findall(r"^(\w+) :", documented, re.MULTILINE)
    assert set(named) == set(inspect.signature(method).parameters)


# Sections of a docstring: their names, underlined.
SECTION = re.compile(r"^(\w[\w ]*)\n-{3,}$", re.MULTILINE)
# What has no example of its own, and where there is one.
WITHOUT_EXAMPLE = {
    **dict.fromkeys(
        [
            "callbacks.Rule",
            "approximations.Family",
            "approximations.FamilyGroup",
            "inference.Method",
            "inference.LoopMethod",
            "inference.EngineMethod",
            "inference.FamilyMethod",
            "tracking.RunTracker",
        ],
        "a contract: CONTRIBUTING.md has a whole file that fulfils it",
    ),
    **dict.fromkeys(
        ["engine.Loop", "engine.Program"], "a protocol: StepProgram and make_loop show it"
    ),
    **dict.fromkeys(
        ["engine.GrowingLoop", "method.Prepared"], "made by fits alone, of what they compile"
    ),
    **dict.fromkeys(
        [f"zoo.posteriordb.{name}" for name in ("build", "data", "moments", "reference")],
        "reads a clone of posteriordb, which is no part of the package",
    ),
    **dict.fromkeys(
        ["testing.check_family", "testing.check_method"],
        "takes seconds: the docstring of its module has one",
    ),
    **dict.fromkeys(
        ["tracking.rebuild_comparison", "tracking.report_progress"],
        "of an execution that the command line has begun: `pymc-vi report` shows it",
    ),
}
OBJECTS = [
    name for name in LISTED if inspect.isclass(imported(name)) or inspect.isroutine(imported(name))
]


def sections(value):
    """Return the sections of a docstring by their names."""
    doc = vars(value).get("__doc__") if inspect.isclass(value) else value.__doc__
    _, *parts = SECTION.split(inspect.cleandoc(doc or ""))
    return dict(zip(parts[::2], parts[1::2], strict=True))


def entries(section):
    """Return the names that a section of parameters describes, in their order."""
    heads = re.findall(r"^(\S.*?)(?: :.*)?$", section, re.MULTILINE)
    return [name for head in heads for name in head.split(", ")]


def arguments(value):
    """Return the names of what a docstring has to describe; None where there are none to give."""
    if inspect.isclass(value) and issubclass(value, enum.Enum):
        return [member.name for member in value]
    if inspect.isclass(value) and issubclass(value, FamilyGroup):
        return list(value.Options.names())
    # Nobody constructs a contract.
    if inspect.isabstract(value) or getattr(value, "_is_protocol", False):
        return None
    try:
        signature = inspect.signature(value)
    except ValueError:  # an exception of one message
        return None
    stars = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    return [stars.get(p.kind, "") + p.name for p in signature.parameters.values()]


def raised(value):
    """Return the names of the errors that a function's own body raises, or a constructor's."""
    if getattr(value, "_is_protocol", False):
        return set()
    bodies = [value]
    if inspect.isclass(value):
        own = ("__init__", "__post_init__")
        # That of a dataclass has no source.
        bodies = [vars(value)[name] for name in own if name in vars(value)]
        bodies = [body for body in bodies if body.__code__.co_filename.endswith(".py")]
    names = set()
    for body in bodies:
        nodes = [ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(body)))).body[0]]
        while nodes:
            node = nodes.pop()
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
                names.add(ast.unparse(node.exc.func))
            inner = (ast.FunctionDef, ast.Lambda, ast.ClassDef)
            nodes += [n for n in ast.iter_child_nodes(node) if not isinstance(n, inner)]
    # Ctrl-C is no error of a call.
    return names - {"KeyboardInterrupt"}


@pytest.mark.parametrize("name", OBJECTS)
def test_docstrings_describe_each_parameter(name):
    value = imported(name)
    if (expected := arguments(value)) is None:
        return
    found = sections(value)
    if inspect.isclass(value) and "Parameters" not in found:
        # Fields that a reader reads are attributes.
        attributes = entries(found.get("Attributes", ""))
        assert not expected or dataclasses.is_dataclass(value) or attributes
        assert attributes[: len(expected)] == expected
    else:
        assert entries(found.get("Parameters", "")) == expected


@pytest.mark.parametrize("name", OBJECTS)
def test_docstrings_say_what_is_returned(name):
    value = imported(name)
    if inspect.isclass(value):
        return
    returns = inspect.signature(value).return_annotation not in (None, "None")
    assert returns == bool(sections(value).keys() & {"Returns", "Yields"})


@pytest.mark.parametrize("name", OBJECTS)
def test_docstrings_say_what_is_raised(name):
    value = imported(name)
    section = sections(value).get("Raises", "")
    documented = {part.rpartition(".")[2] for part in entries(section)}
    assert not raised(value) - documented


@pytest.mark.parametrize("name", OBJECTS)
def test_docstrings_have_an_example(name):
    has_one = ">>> " in sections(imported(name)).get("Examples", "")
    assert has_one != (name.removeprefix("pymc_vi_ext.") in WITHOUT_EXAMPLE)
