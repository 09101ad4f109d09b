"""Configurations that are malformed or hostile: one sentence each, soon, and nothing happens."""

import contextlib
import itertools
import json
import os
import string
import sys
import time
import zoneinfo

from pathlib import Path

import pytest
import yaml

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import pymc_vi_ext as vix

from pymc_vi_ext import zoo
from pymc_vi_ext.comparison import ConfigError, load_config, runnable_names
from pymc_vi_ext.comparison._yaml import YamlError, parse_yaml
from pymc_vi_ext.comparison.config import check_methods, suite_names
from pymc_vi_ext.comparison.methods import runnable
from pymc_vi_ext.comparison.runner import check_plan
from pymc_vi_ext.options import configurable

HEAD = "name: x\nmodel: gamma\n"
NUTS = "methods: [{name: nuts}]\n"
GOOD = HEAD + NUTS
LONG = "x" * 600
BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n"
    for old, new in itertools.pairwise(string.ascii_lowercase[:9])
)


def refusal(path, text, **options):
    """Return what is said of a configuration, without the place of its file."""
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError) as error:
        load_config(path, **options)
    return str(error.value).replace(f"{path}: ", "")


READING = [
    ("not UTF-8", b"name: \xff", "is not UTF-8 text."),
    ("UTF-16", GOOD.encode("utf-16"), "is not UTF-8 text."),
    ("NUL", "name: \0", r"line 1: the character '\x00' is none of YAML."),
    ("escaped NUL", 'name: "\\0"', r"line 1: '\x00' is no character of a text."),
    ("surrogate", 'name: "\\ud800"', r"line 1: '\ud800' is no character of a text."),
    ("no character", 'name: "\\UFFFFFFFF"', "is not YAML: an escape or a version in it is none."),
    ("size", "#" * 100_001, "has more than 100,000 bytes, which no configuration needs."),
    ("values", "[" + "1, " * 6_000 + "]", "line 1: more than 5,000 values, which no configuration"),
    ("long text", "a: &a " + "y" * 9_000 + "\nb: [" + "*a, " * 99 + "]", "line 2: more than 5,000"),
    ("bomb", BOMB, "line 4: more than 5,000 values, which no configuration needs."),
    ("depth", "[" * 40_000, "line 1: values more than 20 deep, which no configuration needs."),
    (
        "deep aliases",
        "a: &a " + "[" * 15 + "]" * 15 + "\nb: " + "[" * 9 + "*a" + "]" * 9,
        "line 2:",
    ),
    ("endless", "a: &a [*a]", "line 1: the alias '*a' stands for what it is in."),
    ("no anchor", "a: *b", "line 1: there is no anchor '&b' before this alias."),
    ("key twice", GOOD + "name: y", "line 4: the key 'name' is there twice, first in line 1."),
    (
        "key twice, deep",
        HEAD + "methods: [{name: nuts, name: advi}]",
        "line 3: the key 'name' is",
    ),
    ("number as key", GOOD + "3: y", "line 4: the key '3' is no text: write it in quotes."),
    ("list as key", GOOD + "? [a]\n: y", "line 4: a key is text, not a list or a mapping."),
    ("alias as key", "a: &a b\n*a : y", "line 2: a key is text, not an alias."),
    ("set", "name: !!set {a}", "line 1: the tag 'tag:yaml.org,2002:set': values are written with"),
    ("binary", "name: !!binary aGk=", "line 1: the tag 'tag:yaml.org,2002:binary': values are wri"),
    ("object", "!!python/object/apply:os.getcwd []", "line 1: the tag 'tag:yaml.org,2002:python/o"),
    ("infinite", GOOD + "max_seconds: .inf", "line 4: .inf is no finite number."),
    ("no number", GOOD + "max_seconds: .nan", "line 4: .nan is no finite number."),
    ("overflow", GOOD + "max_seconds: 1e999", "line 4: 1e999 is no finite number."),
    ("digits", GOOD + "draws: " + "9" * 5_000, "line 4: a number of 5,000 characters."),
    ("documents", GOOD + "---\n" + GOOD, "line 4: a second document begins, and a file is one."),
    (
        "tab",
        "methods:\n\t- name: nuts",
        r"line 2: is not YAML: while scanning for the next token",
    ),
    ("merged text", GOOD + "<<: 3", "line 4: << takes the keys of mappings, not 3."),
    ("open", "name: [", "line 1: is not YAML: while parsing a flow node expected the node content"),
    ("empty", "", "has no keys; it needs name, model and methods."),
    ("text", "gamma", "has no keys; it needs name, model and methods."),
]
CHECKS = [
    ("name: [x]", "name: needs text, not ['x']."),
    ("name: ''", "name: needs some text, not ''."),
    ("name: '  '", "name: needs characters other than blanks at its beginning and end, not '  '."),
    ('name: "a\\nb"', r"name: needs characters that can be printed, not 'a\nb'."),
    ('name: "\\e[31m"', r"name: needs characters that can be printed, not '\x1b[31m'."),
    ("name: a/b", "name: needs a name without /, not 'a/b'."),
    (f"name: {LONG}", "name: needs 100 characters at most, not 'xxxxxxx"),
    (f"model: {LONG}", "model: needs 500 characters at most, not 'xxxxxxx"),
    ("model: ..:x", "model: '..:x' is neither a model of the zoo nor package.module:factory or "),
    ("model: ':'", "model: ':' is neither a model of the zoo nor package.module:factory or file.p"),
    ("model: 'os:'", "model: 'os:' is neither a model of the zoo nor package.module:factory or fi"),
    ("model: os:system", "model: os:system is code outside the zoo, which runs only with --allow-"),
    ("model: /tmp/a.py:f", "model: /tmp/a.py:f is code outside the zoo, which runs only with --al"),
    (
        "model: /etc/passwd",
        "model: Unknown model '/etc/passwd': the known ones are gamma, ",
    ),
    ("parameters: [n]", "parameters: needs keys and values, not ['n']."),
    ("parameters: {n: 0}", "parameters: n must be a whole number from 1 to 1,000,000, not 0."),
    (
        "parameters: {n: true}",
        "parameters: n must be a whole number from 1 to 1,000,000, not True",
    ),
    (
        "parameters: {seed: -1}",
        "parameters: seed must be a whole number from 0 to 4,294,967,295",
    ),
    ("methods: []", "methods: needs one at least."),
    ("methods: nuts", "methods: needs a list, not 'nuts'."),
    ("methods: [{name: nuts, label: ' '}]", "methods[0].label: needs characters other than blanks"),
    ("methods: [{name: nuts, label: $x$}]", "methods[0].label: needs a name without $, not '$x$'."),
    ("methods: [{name: nuts, chains: 1001}]", "methods[0].chains: needs a number up to 1,000, no"),
    ("methods: [{name: nuts, chains: true}]", "methods[0].chains: needs a whole number, not True."),
    ("methods: [{name: nuts, chains: '4'}]", "methods[0].chains: needs a whole number, not '4'."),
    ("methods: [{name: nuts, chains: 4.0}]", "methods[0].chains: needs a whole number, not 4.0."),
    ("methods: [{name: advi, correct: 1}]", "methods[0].correct: needs true or false, not 1."),
    ("methods: [{name: advi, learning_rate: '1'}]", "methods[0].learning_rate: needs a number, no"),
    ("methods: [{name: advi, n: 10000000000}]", "methods[0].n: needs a number up to 1,000,000,000"),
    ("methods: [{name: dadvi, n_draws: 5}]", "methods[0].n_draws: needs a multiple of 2, not 5."),
    ("methods: [{name: advi, convergence: matched}]", "methods[0]: the rule 'matched' cannot judg"),
    ("reference: 1", "reference: needs text, not 1."),
    ("reference: advi", "reference: 'advi' is none of the methods that run: nuts."),
    ("seeds: 1", "seeds: needs a list, not 1."),
    ("seeds: []", "seeds: needs one at least."),
    ("seeds: [true]", "seeds[0]: needs a whole number, not True."),
    ("seeds: [-1]", "seeds[0]: needs a number from 0, not -1."),
    ("seeds: [4294967296]", "seeds[0]: needs a number up to 4,294,967,295, not 4294967296."),
    ("seeds: [" + "1, " * 1_001 + "]", "seeds: needs 1,000 at most."),
    ("draws: 1e12", "draws: needs a whole number, not 1000000000000.0."),
    ("draws: 1000000000000", "draws: needs a number up to 1,000,000, not 1000000000000."),
    ("draws: no", "draws: needs a whole number, not 'no'."),
    ("max_seconds: 0", "max_seconds: needs a number above 0, not 0."),
    ("max_seconds: 1e300", "max_seconds: needs a number up to 100,000,000, not 1e+300."),
]


@pytest.mark.parametrize(
    ("text", "sentence"), [r[1:] for r in READING], ids=[r[0] for r in READING]
)
def test_what_is_no_yaml_or_too_much_of_it_is_refused_with_its_line(tmp_path, text, sentence):
    assert refusal(tmp_path / "c.yaml", text).startswith(sentence)


@pytest.mark.parametrize(("line", "sentence"), CHECKS, ids=[line[:40] for line, _ in CHECKS])
def test_what_could_only_fail_later_is_refused_with_its_key(tmp_path, line, sentence):
    key = line.partition(":")[0]
    others = [old for old in GOOD.splitlines() if not old.startswith(f"{key}:")]
    said = refusal(tmp_path / "c.yaml", "\n".join([*others, line]))
    assert said.splitlines()[0].startswith(sentence)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: [1e-3, -2.5, .5, 0x10, 0o17, 007]", {"a": [0.001, -2.5, 0.5, 16, 15, 7]}),
        ("a: [no, 2026-01-31, 1_000, '1', ~]", {"a": ["no", "2026-01-31", "1_000", "1", None]}),
        ("a: &a {b: 1, c: 2}\nd: {<<: *a, c: 3}", {"a": {"b": 1, "c": 2}, "d": {"b": 1, "c": 3}}),
        ("\ufeffa: 1", {"a": 1}),
        ("", None),
    ],
)
def test_values_are_those_of_the_core_schema(text, value):
    assert parse_yaml(text) == value


def test_aliases_are_copies():
    found = parse_yaml("a: &a [1]\nb: *a")
    found["a"].append(2)
    assert found["b"] == [1]


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda folder: folder, "is a folder, not a file."),
        (lambda folder: Path("/dev/zero"), "is not a file."),
        (lambda folder: folder / ("x" * 300), "cannot be read: File name too long."),
        (lambda folder: folder / "a\0b", "cannot be read: it is no name of a file."),
    ],
)
def test_what_is_no_file_is_not_read(tmp_path, make, sentence):
    path = make(tmp_path)
    with pytest.raises(ConfigError) as error:
        load_config(path)
    assert str(error.value) == f"{path}: {sentence}"


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigError, match="is not a file"):
        load_config(tmp_path / "pipe")


def test_of_many_problems_the_first_are_told_and_how_many_more_there_are(tmp_path):
    said = refusal(tmp_path / "c.yaml", "".join(f"k{i}: 1\n" for i in range(500)))
    assert len(said) < 2_000
    *told, last = said.splitlines()
    assert len(told) > 5
    assert last == f"and {503 - len(told)} more."


def test_a_sampler_that_is_not_installed_is_known_before_anything_runs(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    said = refusal(tmp_path / "c.yaml", HEAD + "methods: [{name: nuts, sampler: nutpie}]")
    assert said.startswith("methods[0]: The NUTS sampler 'nutpie' is not installed: pip install")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("draws", "'draws' changes nothing of a configuration: write key=value"),
        ("=1", "'=1' changes nothing"),
        (f"{LONG}=[", "line 1: is not YAML"),
        ("draws=" + "[" * 99, "values more than 20 deep"),
        ("draws={a: 1, a: 2}", "the key 'a' is there twice"),
        (".".join("a" * 5_000) + "=1", "changes nothing of a configuration"),
        ("methods[99999999999999999999]=1", "changes nothing of a configuration"),
        ("draws=true", "draws: needs a whole number, not True."),
    ],
)
def test_changes_of_a_configuration_are_read_alike(tmp_path, change, sentence):
    said = refusal(tmp_path / "c.yaml", GOOD, changes=[change])
    assert sentence in said
    assert len(said) < 300


@pytest.mark.parametrize(
    "method", ["3", "{name: [x]}", "{name: nuts, label: {a: 1}}", "{}", "null"]
)
@pytest.mark.parametrize("reference", ["[x]", "{a: 1}", "3"])
def test_methods_are_chosen_before_they_are_checked(tmp_path, method, reference):
    text = f"{HEAD}methods: [{{name: nuts}}, {method}]\nreference: {reference}"
    refusal(tmp_path / "c.yaml", text, only=["nuts"])
    refusal(tmp_path / "c.yaml", text, only=[LONG])


# What a key may be given that it does not want, or only seems to.
HOSTILE = [
    "null", "true", "no", "-1", "0", "1", "2", "1.5", "1e12", "1e300", "-1e300", "1e-320",
    "4294967295", "4294967296", "9223372036854775808", "9" * 5_000, "0x7fffffffffffffff", "1_000",
    ".inf", ".nan", "'1'", "'true'", "two", "''", "'  '", '"a\\nb"', '"\\0"', '"\\e[31m"',
    '"\\ud800"', "\u202egnp", LONG, "[]", "[1]", "[1, 1]", "[true]", "[[[[1]]]]", "{}", "{a: 1}",
    "{name: nuts}", "{n: {n: 1}}", "2026-01-31", "..", "../x", "Default", "con", "os:system",
    "..:x", ":", "canary:f", "canary.py:f", "{canary}:f", "/etc/passwd", "!!set {a}",
    "!!binary aGk=", "!!python/name:os.system", "*none", "&a [*a]", "$\\foo$", "'{config}'", "%s",
    "[", "}", "a: b: c", "\t", "|", "@",
]  # fmt: skip
SMALL = {
    "gamma": {"n": 20, "seed": 1},
    "hierarchical": {"groups": 3, "rows": 20, "seed": 1},
    "iris": {},
    "logistic": {"n": 20, "k": 2, "seed": 1},
    "minibatch": {"n": 20, "k": 2, "batch_size": 5, "seed": 1},
    "mixture": {},
}
TOP = {
    "name": "a name",
    "model": "gamma",
    "parameters": {"n": 20},
    "methods": [{"name": "nuts"}, {"name": "advi"}],
    "reference": "nuts",
    "seeds": [1, 2],
    "draws": 100,
    "max_seconds": 60.0,
    "must_converge": ["advi"],
    "schedule": {"cron": "0 3 * * *", "timezone": "UTC"},
    "webhook": "TEAM_WEBHOOK",
}
# What a key may hold instead, whose own keys may be wrong.
WITHIN = {
    "seeds": [{"root": 1, "number": 2}],
    "schedule": [TOP["schedule"]],
    "data": [
        {"y": {"file": "y.csv", "columns": "y"}},
        {"y": {"file": "y.nc", "variable": "y"}},
        {"y": {"zoo": "gamma", "variable": "y"}},
    ],
}
EXAMPLE = """\
# A comparison.
name: demo
model: gamma
parameters: {n: 20}
methods:
  - &common {name: nuts, chains: 2, label: "long"}
  - <<: *common
    label: 'other'
    target_accept: 0.9
  - name: svgd
    n: 30
    convergence: null
reference: long
seeds: [1, 2]
draws: 100
"""


class Raw(str):
    """Text of YAML."""

    __slots__ = ()


def flow(content):
    """Return the YAML of a value, in which some is YAML already."""
    if isinstance(content, dict):
        return "{" + ", ".join(f"{key}: {flow(value)}" for key, value in content.items()) + "}"
    if isinstance(content, list):
        return "[" + ", ".join(map(flow, content)) + "]"
    return content if isinstance(content, Raw) else json.dumps(content)


def lines(content):
    return "".join(f"{key}: {flow(value)}\n" for key, value in content.items())


def replaced(content, key, canary):
    """Yield copies of a mapping with something else, or nothing, at a key."""
    for value in HOSTILE:
        yield {**content, key: Raw(value.replace("{canary}", canary))}
    yield {k: value for k, value in content.items() if k != key}
    yield {**content, f"{key}s": 1}


def sections():
    """Yield all methods with all their keys at their defaults."""
    for name in runnable_names():
        options = {
            key: default
            for kind in runnable(name).options
            for key, (_, default, _) in configurable(kind).items()
        }
        yield {"name": name, "label": "x", "max_seconds": 60.0, **options}


def corpus(canary):
    """Yield configurations, nearly all of which are wrong."""
    for key in TOP:
        yield from map(lines, replaced(TOP, key, canary))
    for key, others in WITHIN.items():
        for other in others:
            yield from map(lines, replaced({**TOP, key: other}, key, canary))
            [(_, inner), *_] = other.items() if key == "data" else [(key, other)]
            for part in inner:
                for wrong in replaced(inner, part, canary):
                    yield lines({**TOP, key: {"y": wrong} if key == "data" else wrong})
    seen = set()
    for method in sections():
        for key in method:
            if key in {"label", "max_seconds", "backend"} & seen:
                continue  # the same of all methods
            seen.add(key)
            for other in replaced(method, key, canary):
                yield lines({**TOP, "methods": [other], "reference": None})
    for model, parameters in SMALL.items():
        yield lines({**TOP, "model": model, "parameters": parameters})
        for key in parameters:
            for other in replaced(parameters, key, canary):
                yield lines({**TOP, "model": model, "parameters": other})
    for i in range(len(EXAMPLE)):
        yield EXAMPLE[:i]
        for broken in ("\0", "\t", ":", "[", "\n", '"'):
            yield EXAMPLE[:i] + broken + EXAMPLE[i:]
    for line in EXAMPLE.splitlines(keepends=True):
        yield EXAMPLE.replace(line, line * 2)
        yield EXAMPLE.replace(line, "")
    for deep in (5, 20, 21, 1_000, 40_000):
        for opening, closing in (("[", "]"), ("{", "}"), ("- ", ""), ("{a: ", "}"), ("? ", "")):
            yield "x: " + opening * deep + "1" + closing * deep
            yield opening * deep
    yield BOMB


def told(path, text):
    """Return the configuration; None where it is refused, in which case look at what is said."""
    path.write_bytes(text if isinstance(text, bytes) else text.encode(errors="surrogatepass"))
    began = time.thread_time()
    accepted = None
    try:
        accepted = load_config(path)
    except ConfigError as error:
        said = str(error)
        assert len(said) < 2_000, said
        assert all(line.isprintable() and line.startswith(str(path)) for line in said.split("\n"))
    assert time.thread_time() - began < 1, text[:300]
    return accepted


CANARY = "import pathlib; pathlib.Path(__file__).with_name('alarm').touch()\ndef f(): pass\n"


@pytest.fixture
def guarded(tmp_path, monkeypatch):
    """A file to write configurations to; nothing else may be written."""
    folder = tmp_path / "cwd"
    folder.mkdir()
    (tmp_path / "canary.py").write_text(CANARY)
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / "c.yaml"
    # All methods: to look whether a package is there may import it.
    methods = [{"name": name, "label": name} for name in runnable_names()]
    path.write_text(lines({**TOP, "methods": methods}))
    load_config(path)
    # What the system does not know of time zones is looked for in a package.
    with contextlib.suppress(zoneinfo.ZoneInfoNotFoundError):
        zoneinfo.ZoneInfo("No/Where")
    yield path
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["c.yaml", "canary.py", "cwd"]
    assert not list(folder.iterdir())


def check_accepted(config):
    """Check what a run of a configuration checks before anything is compiled."""
    specs = config.specs()
    check_plan(specs, config.seeds, None)
    assert config.reference in {None, "exact", *(spec.label for spec in specs)}
    for spec in specs:
        runnable(spec.name).values(spec.all_options)
    json.loads(json.dumps(config.model_dump(mode="json"), allow_nan=False))


def test_thousands_of_malformed_configurations_do_nothing(guarded):
    """Each is refused with short sentences, or could be run as far as is known without running."""
    count, models, modules = 0, {}, set(sys.modules)
    for text in corpus(str(guarded.with_name("canary.py"))):
        count += 1
        config = told(guarded, text)
        if config is not None:
            check_accepted(config)
            models.setdefault((config.model, json.dumps(config.parameters)), config)
    assert count >= 4_000
    assert set(sys.modules) == modules
    assert {config.model for config in models.values()} == set(zoo.MODELS)
    for config in models.values():
        assert zoo.build(config.model, **config.parameters).free_RVs


def suites(canary):
    """Yield suites, nearly all of which are wrong."""
    entry = {"model": "gamma", "name": "one", "parameters": {"n": 20}}
    suite = {**TOP, "models": [entry, {**entry, "name": "two"}]}
    del suite["model"], suite["parameters"]
    for key in suite:
        yield from map(lines, replaced(suite, key, canary))
    for key in entry:
        for wrong in replaced(entry, key, canary):
            yield lines({**suite, "models": [wrong]})


def test_malformed_suites_do_nothing(guarded):
    for text in suites(str(guarded.with_name("canary.py"))):
        guarded.write_bytes(text.encode(errors="surrogatepass"))
        try:
            configs = [load_config(guarded, comparison=name) for name in suite_names(guarded)]
        except ConfigError as error:
            said = str(error)
            assert len(said) < 2_000, said
            assert all(line.isprintable() for line in said.split("\n"))
            continue
        assert len({config.name for config in configs}) == len(configs)
        for config in configs:
            check_accepted(config)


@pytest.mark.parametrize(
    ("model", "method", "sentence"),
    [
        ("gamma", "{name: lowrank_advi, rank: 3}", "rank is 3, and the model has 2 dimensions."),
        ("gamma", "{name: bam, rank: 3}", "rank is 3, and the model has 2 dimensions."),
        ("minibatch", "{name: bam}", "bam takes no minibatches: give the model all data."),
        ("minibatch", "{name: dadvi}", "dadvi takes no minibatches: give the model all data."),
        ("minibatch", "{name: laplace}", "laplace takes no minibatches: give the model all data."),
        ("minibatch", "{name: blackjax_svgd}", "blackjax takes no minibatches: give the model all"),
    ],
)
def test_methods_that_cannot_run_on_the_model_are_known_before_anything_runs(
    tmp_path, model, method, sentence
):
    path = tmp_path / "c.yaml"
    text = {"name": "x", "model": model, "parameters": SMALL[model], "reference": None}
    path.write_text(lines({**text, "methods": [Raw("{name: advi}"), Raw(method)]}))
    config = load_config(path)
    with pytest.raises(ConfigError) as error:
        check_methods(config, zoo.build(model, **SMALL[model]), path)
    assert str(error.value).startswith(f"{path}: methods[1]: {sentence}")


def test_rules_that_cannot_judge_a_method_are_rules():
    from pymc_vi_ext.callbacks import RULES
    from pymc_vi_ext.inference import METHODS

    assert all(method.unfit_rules <= set(RULES) for method in METHODS.values())
    with pytest.raises(TypeError, match="no Gaussian of full or of low rank"):
        vix.fit(30, model=zoo.build("gamma", n=20), convergence="matched", progressbar=False)


def test_bounds_hold_in_python_too():
    with pytest.raises(ValueError, match="`n_particles` must be at most 100000, not 1000000"):
        vix.SVGD(n_particles=1_000_000, model=zoo.build("gamma", n=20))


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.dates()
ANYTHING = st.recursive(
    SCALARS | st.binary(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from([*TOP, "n", "label"]) | SCALARS, inner, max_size=4)
    ),
    max_leaves=12,
)
QUICK = settings(
    max_examples=200,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],  # where others work on the machine
)


@pytest.fixture(scope="module")
def somewhere(tmp_path_factory):
    path = tmp_path_factory.mktemp("anything") / "c.yaml"
    path.write_text(GOOD)
    load_config(path)
    return path


@QUICK
@given(content=ANYTHING)
def test_any_structure_is_refused_or_could_be_run(somewhere, content):
    with contextlib.suppress(UnicodeEncodeError):
        text = yaml.safe_dump(content, allow_unicode=True)
        assert told(somewhere, text) is None


@QUICK
@given(key=st.sampled_from(list(TOP)), value=ANYTHING)
def test_any_value_of_a_key_is_refused_or_could_be_run(somewhere, key, value):
    config = told(somewhere, yaml.safe_dump({**TOP, key: value}, allow_unicode=True))
    if config is not None:
        check_accepted(config)


@QUICK
@given(text=st.text() | st.binary() | st.text(alphabet="abn:[]{}&*!|>'\"%@`#,?- \n\t\\0x~<="))
def test_any_text_is_refused(somewhere, text):
    assert told(somewhere, text) is None
    with contextlib.suppress(YamlError):
        parse_yaml(text if isinstance(text, str) else text.decode("latin1"))
