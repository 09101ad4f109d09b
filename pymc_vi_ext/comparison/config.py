"""Comparisons described in YAML.

``python -m pymc_vi_ext.comparison.config PATH`` writes the JSON schema of the configuration.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import json
import re
import sys
import typing

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Union

import pymc as pm
import xarray as xr

from pymc_vi_ext import zoo
from pymc_vi_ext.comparison._sentences import ConfigError, cut, listed, shown
from pymc_vi_ext.comparison.methods import MethodSpec, runnable, runnable_names
from pymc_vi_ext.comparison.references import check_given, given_posterior
from pymc_vi_ext.comparison.runnable import LONGEST
from pymc_vi_ext.comparison.runner import check_plan
from pymc_vi_ext.comparison.suites import MODELS, comparisons
from pymc_vi_ext.options import configurable

try:
    import pydantic

    from pydantic import AfterValidator, BaseModel, Field

    from pymc_vi_ext.comparison._strict import Strict
    from pymc_vi_ext.comparison._yaml import YamlError, parse_yaml, read_yaml
    from pymc_vi_ext.comparison.data import DataSource, read_data
    from pymc_vi_ext.comparison.schedule import Schedule
    from pymc_vi_ext.comparison.seeds import Seeds
except ImportError as error:
    raise ImportError(
        "Configurations need pydantic, pyyaml and cronsim: pip install 'pymc-vi-ext[flows]'."
    ) from error


EXACT_REFERENCE = "exact"
"""What a configuration says to measure distances to the model's exact draws."""
_REFERENCE_FILE = ".nc"


# Keys and numbers of a path such as methods[1].n.
_PARTS = re.compile(r"([^.\[\]]+)|\[(\d+)\]")
# Of `--set`: more keys than a configuration is deep.
_MOST_PARTS = 10
# Of names, in characters; of whole numbers that have no other bound; of all draws of a sampler.
_LONGEST_NAME, _LONGEST_MODEL = 100, 500
_LARGEST, _MOST_DRAWS = 1_000_000_000, 10_000_000
# Of methods, of seeds, and of both together.
_LONGEST_LIST, _MOST_RUNS = 1_000, 10_000
# What Prefect takes in no name, and figures take for mathematics.
_NOT_IN_NAMES, _NOT_IN_LABELS = "/%&<>", "$"
# What `max_seconds` is of a method that has no option of that name.
_LIMIT = "Seconds after which its process is ended, and its row is FAILED"


def _ends_by_itself(name: str) -> bool:
    """Tell whether a method has an option `max_seconds`, at which it ends with what it has."""
    return "max_seconds" in runnable(name).names


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("needs characters that can be printed")
    if text != text.strip():
        raise ValueError("needs characters other than blanks at its beginning and end")
    return text


def _without(characters: str) -> AfterValidator:
    def check(text: str) -> str:
        if found := [character for character in characters if character in text]:
            raise ValueError(f"needs a name without {' '.join(found)}")
        return text

    return AfterValidator(check)


_Text = Annotated[str, Field(max_length=_LONGEST_NAME), AfterValidator(_printable)]
_Name = Annotated[_Text, _without(_NOT_IN_NAMES)]
_Label = Annotated[_Text, _without(_NOT_IN_LABELS)]


def _section(name: str) -> type[BaseModel]:
    """Return the section of a method, with its options."""
    method = runnable(name)
    fields: dict[str, Any] = {
        "name": (Literal[name], Field(description="Which method.")),
        "label": (_Label, Field(default="", description="Name in tables; the method's if empty.")),
    }
    for options in method.options:
        for key, (hint, default, metadata) in configurable(options).items():
            if int in (hint, *typing.get_args(hint)):
                metadata = {"le": _LARGEST, **metadata}
            fields[key] = (hint, Field(default=default, **metadata))
    if not _ends_by_itself(name):
        fields["max_seconds"] = (
            float | None,
            Field(
                default=None,
                gt=0,
                le=LONGEST,
                description=f"{_LIMIT}; that of the comparison if null.",
            ),
        )
    description = " ".join(filter(None, (options.__doc__ for options in method.options)))
    return pydantic.create_model(f"Method_{name}", __base__=Strict, __doc__=description, **fields)


class ComparisonConfig(Strict):
    """A comparison: a model, the methods that run on it, and the reference.

    :func:`config_type` gives the class whose methods have all their keys checked.

    Parameters
    ----------
    name : str
        Of the comparison, and of its experiment in MLflow.
    model : str
        Of the zoo, ``package.module:factory`` or ``file.py:factory``.
    parameters : dict
        Passed to the model's factory.
    data : dict
        Where data for parameters of the factory are read from, by their names.
    methods : list
        Of each the ``name``, its options, and perhaps a ``label`` and ``max_seconds``.
    reference : str or None
        Label of a method, ``exact``, or a netCDF file.
    must_converge : list of str
        Labels of methods that count as failed where they have not converged.
    seeds : list of int, or root and number
    draws : int
        Of an approximation, and of each chain.
    max_seconds : float or None
        Seconds after which the process of a run is ended.
    schedule : Schedule or None
        When ``serve`` runs it.
    webhook : str or None
        Environment variable that holds an address.

    Raises
    ------
    pydantic.ValidationError
        If a value cannot be used; :func:`load_config` makes sentences of that.

    Examples
    --------
    >>> from pymc_vi_ext.comparison.config import config_type
    >>> config = config_type()(name="demo", model="gamma", methods=[{"name": "advi", "n": 500}])
    >>> config.specs()
    [MethodSpec(name='advi', options={'n': 500}, label='advi')]
    """

    name: _Name = Field(min_length=1, description="Name of the comparison, its MLflow experiment.")
    model: Annotated[str, AfterValidator(_printable)] = Field(
        min_length=1,
        max_length=_LONGEST_MODEL,
        description="A model of the zoo, or package.module:factory, or file.py:factory (relative "
        "to this file), a function that returns a pymc.Model.",
    )
    parameters: dict[str, Any] = Field(
        default_factory=dict, description="Passed to the model's factory."
    )
    data: dict[str, DataSource] = Field(
        default_factory=dict,
        description="Data for parameters of the model's factory, by their names.",
    )
    methods: list[Any] = Field(
        min_length=1, max_length=_LONGEST_LIST, description="The methods, in their order."
    )
    reference: _Text | None = Field(
        default="nuts",
        description="Label of the method that distances are measured to; or `exact`, where the "
        "zoo has exact draws of the model; or a .nc file, relative to this one, with draws or "
        "moments.",
    )
    must_converge: list[_Label] = Field(
        default=[],
        max_length=_LONGEST_LIST,
        description="Labels of methods that count as failed where they have not converged.",
    )
    seeds: Seeds = Field(
        default=[1],
        min_length=1,
        max_length=_LONGEST_LIST,
        description="Each method runs once with each; or `root` and `number`, of seeds that are "
        "derived from one.",
    )
    draws: int = Field(
        default=1000, ge=1, le=1_000_000, description="Draws of an approximation, of each chain."
    )

    max_seconds: float | None = Field(
        default=None,
        gt=0,
        le=LONGEST,
        description="Seconds after which a run is ended, and its row is FAILED.",
    )
    schedule: Schedule | None = Field(default=None, description="When `serve` runs it.")
    webhook: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z_][A-Za-z0-9_]*$",
        description="Environment variable that holds the address to which `serve` and "
        "`--regression` post what has become worse. Not the address: those are secrets.",
    )

    def specs(self) -> list[MethodSpec]:
        """Return the methods as specifications."""
        found = []
        for method in self.methods:
            options = method.model_dump(exclude={"name", "label"}, exclude_unset=True)
            if not _ends_by_itself(method.name):
                options.pop("max_seconds", None)
            found.append(MethodSpec(method.name, options, method.label))
        return found

    def limits(self) -> list[float | None]:
        """Return after how many seconds the process of each method is ended."""
        own = [
            None if _ends_by_itself(method.name) else method.max_seconds for method in self.methods
        ]
        return [self.max_seconds if limit is None else limit for limit in own]


def config_type() -> type[ComparisonConfig]:
    """Return the class of configurations of all methods that there are now."""
    return _config_type(runnable_names())


@functools.cache
def _config_type(names: tuple[str, ...]) -> type[ComparisonConfig]:
    sections: Any = Union[tuple(_section(name) for name in names)]  # noqa: UP007, of a tuple
    section: Any = Annotated[sections, Field(discriminator="name")]
    return pydantic.create_model(
        "ComparisonConfig",
        __base__=ComparisonConfig,
        __doc__="A comparison: a model, the methods that run on it, and the reference.",
        methods=(list[section], ComparisonConfig.model_fields["methods"]),
    )


def _sections() -> dict[str, type[BaseModel]]:
    """Return the sections of the methods by name."""
    [section] = typing.get_args(config_type().model_fields["methods"].annotation)
    union = typing.get_args(section)[0]
    return {
        typing.get_args(kind.model_fields["name"].annotation)[0]: kind
        for kind in typing.get_args(union)
    }


def load_config(
    path: str | Path,
    *,
    allow_code: bool = False,
    changes: Sequence[str] = (),
    only: Sequence[str] = (),
    comparison: str | None = None,
) -> ComparisonConfig:
    r"""Read and check a configuration.

    Parameters
    ----------
    path : str or Path
        YAML file.
    allow_code : bool
        Whether the model may name code outside the zoo.
    changes : sequence of str
        Values in place of those of the file, such as ``"draws=200"`` or ``"methods[1].n=500"``; the
        part behind ``=`` is YAML.
    only : sequence of str
        Labels of the methods to run, and of the reference, where it is a method; all if empty.
    comparison : str, optional
        Which one of a suite: one of :func:`~pymc_vi_ext.comparison.config.suite_names`.

    Returns
    -------
    ComparisonConfig

    Raises
    ------
    ConfigError
        With a sentence per problem that says where it is.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from pymc_vi_ext.comparison import load_config
    >>> path = pathlib.Path(tempfile.mkdtemp(), "gamma.yaml")
    >>> _ = path.write_text("name: demo\nmodel: gamma\nmethods: [{name: nuts}]")
    >>> load_config(path).draws
    1000
    """
    path = Path(path)
    content = _read(path)
    for change in changes:
        _change(content, change)
    if comparison is not None:
        known = comparisons(content, path, ComparisonConfig.model_fields)
        if comparison not in known:
            there = ", ".join(known)
            raise ConfigError(cut(f"{path}: there is no {shown(comparison)}: there are {there}."))
        content = known[comparison]
    elif MODELS in content:
        raise ConfigError(f"{path}: has several models: it is a suite, and runs with `suite`.")
    if only:
        _leave_only(content, only)
    try:
        config = config_type().model_validate(content)
    except pydantic.ValidationError as error:
        problems = [_sentence(problem, content) for problem in error.errors()]
        raise ConfigError(listed(path, problems)) from None
    _raise_problems(config, path, allow_code)
    return config


def suite_names(path: str | Path, *, changes: Sequence[str] = ()) -> list[str]:
    """Return the names of the comparisons of a suite, which :func:`load_config` takes.

    Parameters
    ----------
    path : str or Path
        YAML file with ``models``, a list: each is a model's name, or a mapping with ``model`` and
        whatever else a configuration has. What it does not have is as in the file.
    changes : sequence of str
        As for :func:`load_config`.

    Returns
    -------
    list of str
        The suite's name and each model's, or the ``name`` that it has there; none of what is a
        single comparison.

    Raises
    ------
    ConfigError
        If it cannot be read, or its names are not all different.
    """
    path = Path(path)
    content = _read(path)
    for change in changes:
        _change(content, change)
    if MODELS not in content:
        return []
    return list(comparisons(content, path, ComparisonConfig.model_fields))


def _read(path: Path) -> dict[str, Any]:
    """Return what a YAML file has."""
    try:
        content = read_yaml(path)
    except YamlError as error:
        raise ConfigError(f"{path}: {error}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: has no keys; it needs name, model and methods.")
    return content


def build_model(
    config: ComparisonConfig, path: str | Path, *, allow_code: bool = False
) -> pm.Model:
    """Build the model of a configuration.

    Parameters
    ----------
    config : ComparisonConfig
    path : str or Path
        Of the configuration; a ``file.py`` is looked for beside it.
    allow_code : bool
        Whether the model may name code outside the zoo.

    Returns
    -------
    pymc.Model

    Raises
    ------
    ConfigError
        If the code is not allowed or not found, raises, or does not return a model.
    """
    path = Path(path)
    _raise_problems(config, path, allow_code)
    data = {}
    for name, source in config.data.items():
        try:
            data[name] = read_data(source, path.parent)
        except ValueError as error:
            raise ConfigError(f"{path}: data.{name}: {error}.") from error
    factory = _factory(config.model, path) if ":" in config.model else zoo.MODELS[config.model]
    try:
        model = factory(**config.parameters, **data)
    except Exception as error:
        raise ConfigError(
            f"{path}: model: {config.model} cannot be built: {cut(_said(error))}"
        ) from error
    if not isinstance(model, pm.Model):
        raise ConfigError(
            f"{path}: model: {config.model} returned {type(model).__name__}, not a pymc.Model."
        )
    return model


def check_methods(config: ComparisonConfig, model: pm.Model, path: str | Path) -> None:
    """Raise ConfigError if a method cannot run on the model.

    Parameters
    ----------
    config : ComparisonConfig
    model : pymc.Model
        As :func:`build_model` builds it.
    path : str or Path
        Of the configuration.
    """
    problems = []
    for number, spec in enumerate(config.specs()):
        try:
            runnable(spec.name).suit(model, spec.all_options)
        except (ValueError, TypeError) as error:
            problems.append(f"methods[{number}]: {error}")
    if problems:
        raise ConfigError(listed(path, problems))


def reference_of(
    config: ComparisonConfig, path: str | Path = ""
) -> str | xr.DataTree | xr.Dataset | None:
    """Return the reference of a configuration: a label, exact draws, or what a file has.

    Parameters
    ----------
    config : ComparisonConfig
    path : str or Path
        Of the configuration, beside which a file is looked for.

    Returns
    -------
    str, xarray.DataTree, xarray.Dataset or None
        For :func:`pymc_vi_ext.comparison.summarise` and :func:`pymc_vi_ext.compare`.

    Raises
    ------
    ConfigError
        If there is no such file, or no reference in it.
    """
    if _is_a_method(config):
        return config.reference
    if config.reference == EXACT_REFERENCE:
        return zoo.exact(config.model)
    file = reference_file(config, path)
    assert file is not None
    try:
        with xr.open_datatree(file, engine="h5netcdf") as opened:
            tree = opened.load()
        # Moments are a Dataset.
        found = given_posterior(tree if tree.children else tree.to_dataset())
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split()).removesuffix(".")
        raise ConfigError(f"{path}: reference: {file} is none: {reason}.") from error
    if isinstance(found, xr.DataTree):
        found.name = file.stem
    return found


def reference_file(config: ComparisonConfig, path: str | Path) -> Path | None:
    """Return the file of the reference; None where it is none.

    Parameters
    ----------
    config : ComparisonConfig
    path : str or Path
        Of the configuration.
    """
    if _is_a_method(config) or config.reference == EXACT_REFERENCE:
        return None
    return Path(path).parent / str(config.reference)


def _is_a_method(config: ComparisonConfig) -> bool:
    return config.reference is None or config.reference in {s.label for s in config.specs()}


def check_reference(config: ComparisonConfig, path: str | Path, model: pm.Model) -> None:
    """Raise ConfigError if a given reference cannot be one of the model.

    Parameters
    ----------
    config : ComparisonConfig
    path : str or Path
    model : pymc.Model
    """
    found = reference_of(config, path)
    if found is None or isinstance(found, str):
        return
    try:
        check_given(model, found)
    except ValueError as error:
        raise ConfigError(f"{path}: reference: {error}") from error


def json_schema() -> str:
    """Return the JSON schema of a configuration, as text."""
    return json.dumps(config_type().model_json_schema(), indent=2) + "\n"


def _raise_problems(config: ComparisonConfig, path: Path, allow_code: bool) -> None:
    problems = list(_problems(config, allow_code))
    if problems:
        raise ConfigError(listed(path, problems))


def _problems(config: ComparisonConfig, allow_code: bool) -> Iterator[str]:
    """Yield what the types alone do not tell."""
    if ":" not in config.model:
        try:
            zoo.check_parameters(config.model, {**config.parameters, **config.data})
        except ValueError as error:
            place = "model" if config.model not in zoo.MODELS else "parameters"
            yield f"{place}: {str(error).removesuffix('.')}."
    elif not _names_code(config.model):
        yield (
            f"model: {shown(config.model)} is neither a model of the zoo nor "
            "package.module:factory or file.py:factory."
        )
    elif not allow_code:
        yield (
            f"model: {cut(config.model, 200)} is code outside the zoo, which runs only with "
            "--allow-code (allow_code=True)."
        )
    else:
        for parameter in config.parameters:
            if not parameter.isidentifier() or len(parameter) > _LONGEST_NAME:
                yield f"parameters: {shown(parameter)} is no name of a parameter."
    for name in config.data:
        if name in config.parameters:
            yield f"data.{name}: is among the parameters too."
    specs = config.specs()
    for number, spec in enumerate(specs):
        options = spec.all_options
        try:
            runnable(spec.name).require(options)
        except (ImportError, ValueError) as error:
            yield f"methods[{number}]: {error}"
        chains = options.get("chains", 1)
        if config.draws * chains > _MOST_DRAWS:
            yield (
                f"draws: {config.draws:,} of each of {chains:,} chains of methods[{number}] are "
                f"more than {_MOST_DRAWS:,}."
            )
    if len(specs) * len(config.seeds) > _MOST_RUNS:
        yield (
            f"seeds: {len(specs):,} methods with {len(config.seeds):,} seeds each are more than "
            f"{_MOST_RUNS:,} runs."
        )
    labels = [spec.label for spec in specs]
    known = ", ".join(labels)
    if _is_a_method(config):
        pass
    elif config.reference == EXACT_REFERENCE:
        if config.model not in zoo.EXACT:
            yield (
                f"reference: no exact draws of {config.model} are known; there are some of the "
                f"models {', '.join(zoo.EXACT)}."
            )
    elif not str(config.reference).endswith(_REFERENCE_FILE):
        yield f"reference: {config.reference!r} is none of the methods that run: {known}."
    for label in config.must_converge:
        if label not in labels:
            yield f"must_converge: {label!r} is none of the methods that run: {known}."
    try:
        check_plan(specs, config.seeds, None)
    except ValueError as error:
        yield f"{'seeds' if 'seeds' in str(error) else 'methods'}: {error}"


def _names_code(model: str) -> bool:
    """Tell whether it is written as ``package.module:factory`` or ``file.py:factory``."""
    place, _, factory = model.rpartition(":")
    module = all(part.isidentifier() for part in place.split("."))
    return factory.isidentifier() and (module or bool(Path(place).suffix == ".py"))


def _change(content: dict[str, Any], change: str) -> None:
    """Set a value in a configuration, in place."""
    key, equals, text = change.partition("=")
    place: Any = content
    try:
        *way, last = [int(number) if number else name for name, number in _PARTS.findall(key)]
        if not equals or len(way) >= _MOST_PARTS:
            raise ValueError
        value = parse_yaml(text)
        for part in way:
            place = place.setdefault(part, {}) if isinstance(place, dict) else place[part]
        place[last] = value
    except YamlError as error:
        raise ConfigError(f"{shown(change)}: the value: {error}") from None
    except (ValueError, LookupError, TypeError, AttributeError):
        raise ConfigError(
            f"{shown(change)} changes nothing of a configuration: write key=value, such as "
            "draws=200 or methods[1].n=500."
        ) from None


def _leave_only(content: dict[str, Any], only: Sequence[str]) -> None:
    """Take out the methods that are neither named nor the reference."""
    methods = content.get("methods")
    if not isinstance(methods, list):
        return  # the check says so
    labels = [_label(method) for method in methods]
    for name in only:
        if name not in labels:
            known = ", ".join(filter(None, labels))
            raise ConfigError(cut(f"There is no method {shown(name)}: there are {known}."))
    kept = [*only, content.get("reference", ComparisonConfig.model_fields["reference"].default)]
    content["methods"] = [m for m, label in zip(methods, labels, strict=True) if label in kept]
    if isinstance(content.get("must_converge"), list):
        content["must_converge"] = [name for name in content["must_converge"] if name in kept]


def _label(method: Any) -> str | None:
    """Return what a method of a configuration that is not checked yet is called."""
    if not isinstance(method, dict):
        return None
    label = method.get("label") or method.get("name")
    return label if isinstance(label, str) else None


def _factory(name: str, path: Path) -> Callable[..., Any]:
    place, _, attribute = name.rpartition(":")
    try:
        if place.endswith(".py"):
            file = (path.parent / place).resolve()
            spec = importlib.util.spec_from_file_location(file.stem, file)
            if not file.exists() or spec is None or spec.loader is None:
                raise ConfigError(f"{path}: model: there is no file {file}.")
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
        else:
            module = importlib.import_module(place)
        factory: Callable[..., Any] = getattr(module, attribute)
        return factory
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(
            f"{path}: model: {name} cannot be loaded: {cut(_said(error))}."
        ) from error


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


# What pydantic says in terms of Python, by the type of its error.
_WANTED = {
    "int_type": "needs a whole number",
    "float_type": "needs a number",
    "bool_type": "needs true or false",
    "string_type": "needs text",
    "list_type": "needs a list",
    "dict_type": "needs keys and values",
    "greater_than": "needs a number above {gt}",
    "greater_than_equal": "needs a number from {ge:,}",
    "less_than": "needs a number below {lt}",
    "less_than_equal": "needs a number up to {le:,}",
    "multiple_of": "needs a multiple of {multiple_of}",
    "literal_error": "needs {expected}",
    "string_too_short": "needs some text",
    "string_too_long": "needs {max_length} characters at most",
    "value_error": "{error}",
}


def _sentence(problem: Any, content: dict[str, Any]) -> str:
    """Say what pydantic found, where in the YAML, and what would be right."""
    place, section = _locate(problem["loc"], content)
    kind, context = problem["type"], {k: _whole(v) for k, v in problem.get("ctx", {}).items()}
    known = ", ".join(runnable_names())
    if kind == "extra_forbidden":
        return f"{place}: unknown key; known keys: {', '.join(section.model_fields)}."
    if kind == "missing":
        return f"{place}: this key is required."
    if kind == "union_tag_invalid":
        return f"{place}.name: unknown method {shown(context['tag'])}; known: {known}."
    if kind == "union_tag_not_found":
        return f"{place}.name: this key is required; one of {known}."
    if kind == "sentence":
        return f"{place}: {problem['msg']}."
    if place.startswith("webhook"):
        # Whatever it is, it is not repeated: it may be a secret.
        return (
            "webhook: names the environment variable that holds the address, such as "
            "SLACK_WEBHOOK, and not the address itself, which is a secret."
        )
    if place == "schedule":
        return "schedule: needs the key cron, as in `schedule: {cron: 0 3 * * *}`."
    if kind in {"model_attributes_type", "model_type"}:
        return f"{place}: needs keys, such as `- name: nuts`, not {shown(problem['input'])}."
    if kind == "too_short":
        return f"{place}: needs one at least."
    if kind == "too_long":
        return f"{place}: needs {context['max_length']:,} at most."
    if kind in _WANTED:
        wanted = _WANTED[kind].format(**context)
    else:
        wanted = f"{problem['msg'][0].lower()}{problem['msg'][1:]}"
    return f"{place}: {wanted}, not {shown(problem['input'])}."


def _whole(value: Any) -> Any:
    """Return the bound of a number, which pydantic has as a float, as it is written."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


# The sections of keys that have one.
_WITHIN: dict[Any, type[BaseModel]] = {"data": DataSource, "schedule": Schedule}


def _locate(loc: tuple[Any, ...], content: Any) -> tuple[str, type[BaseModel]]:
    """Return a path such as ``methods[1].n`` and the section that its last key is in."""
    place = ""
    section: type[BaseModel] = ComparisonConfig
    sections = _sections()
    for i, part in enumerate(loc):
        if isinstance(part, int):
            place += f"[{part}]"
        elif i == 2 and loc[0] == "methods" and part in sections:
            section = sections[part]  # pydantic names the branch of the union, the YAML does not
        else:
            key = part if part.isprintable() and len(part) <= _LONGEST_NAME else shown(part)
            place += f".{key}" if place else key
            if i == 1:
                section = _WITHIN.get(loc[0], section)
    return place, section


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(json_schema(), encoding="utf-8")
