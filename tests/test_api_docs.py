"""The pages in docs/api list what the package offers: all of it, and nothing else."""

import inspect
import re

from importlib import import_module
from pathlib import Path

import pytest

from pymc_vi_ext.approximations import FAMILIES
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
