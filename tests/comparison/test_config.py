"""Configurations and the sentences about what is wrong with them."""

from pathlib import Path

import pytest

from pymc_vi_ext import zoo
from pymc_vi_ext.comparison import ConfigError, MethodSpec, load_config, runnable_names
from pymc_vi_ext.comparison.config import build_model, json_schema, reference_of

CONFIGS = Path(__file__).parents[2] / "configs"
HEAD = "name: x\nmodel: gamma\n"


@pytest.fixture
def write(tmp_path):
    def write(text):
        path = tmp_path / "c.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda p: p.stem)
def test_the_configurations_in_the_repository_are_valid(path):
    config = load_config(path)
    assert build_model(config, path).free_RVs
    assert path.read_text().startswith("# yaml-language-server: $schema=schema.json\n")


def test_the_schema_in_the_repository_is_current():
    assert (CONFIGS / "schema.json").read_text(encoding="utf-8") == json_schema(), (
        "run: python -m pymc_vi_ext.comparison.config configs/schema.json"
    )


def test_the_schema_knows_every_method_and_its_options():
    for name in runnable_names():
        assert f'"Method_{name}"' in json_schema()
    assert '"n_particles"' in json_schema()


def test_methods_become_specifications(write):
    methods = "methods: [{name: nuts}, {name: svgd, n_particles: 7, label: few}]"
    specs = load_config(write(HEAD + methods)).specs()
    assert specs == [MethodSpec("nuts"), MethodSpec("svgd", {"n_particles": 7}, "few")]


NUTS = "methods: [{name: nuts}]\n"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            HEAD + "methods: [{name: nuts}, {name: svgd, n_particle: 3}]",
            "methods[1].n_particle: unknown key; known keys: name, label, n, convergence, backend, "
            "obj_n_mc, learning_rate, n_particles, jitter, kernel, preconditioner, temperature, "
            "correct, max_seconds.",
        ),
        (
            HEAD + NUTS + "draw: 3",
            "draw: unknown key; known keys: name, model, parameters, methods, reference, seeds, "
            "draws, max_seconds.",
        ),
        (
            HEAD + "methods: [{name: nutz}]",
            "methods[0].name: unknown method 'nutz'; known: " + ", ".join(runnable_names()) + ".",
        ),
        (HEAD + "methods: [{n: 3}]", "methods[0].name: this key is required; one of nuts, auto"),
        (HEAD + "methods: [nuts]", "methods[0]: needs keys, such as `- name: nuts`, not 'nuts'."),
        (
            HEAD + "methods: [{name: nuts, sampler: stan}]",
            "methods[0].sampler: input should be 'pymc', 'nutpie', 'numpyro' or 'blackjax', not "
            "'stan'.",
        ),
        (
            HEAD + "methods: [{name: advi, n: 0}]",
            "methods[0].n: input should be greater than or equal to 1, not 0.",
        ),
        (HEAD + NUTS + "seeds: [1, two]", "seeds[1]: input should be a valid integer"),
        ("model: gamma\n" + NUTS, "name: this key is required."),
        ("name: x\nmodel: gama\n" + NUTS, "model: Unknown model 'gama': the known ones are gamma"),
        (HEAD + NUTS + "parameters: {m: 1}", "parameters: model 'gamma' has no parameter 'm'"),
        (HEAD + NUTS + "reference: advi", "reference: 'advi' is none of the methods that run: n"),
        (
            HEAD + NUTS + "reference: exact",
            "reference: no exact draws of gamma are known; there are some of the models mixture.",
        ),
        (HEAD + NUTS + "seeds: [1, 1]", "seeds: The seeds [1, 1] are not all different."),
        (
            HEAD + "methods: [{name: nuts}, {name: nuts}]",
            "methods: 2 methods are called 'nuts': give each its own `label`.",
        ),
        ("name: x\nmodel: os:getcwd\n" + NUTS, "model: os:getcwd is code outside the zoo"),
        ("- 1", "has no keys"),
        ("a: [", "is not YAML: while parsing"),
        ("!!python/object/apply:os.getcwd []", "is not YAML: could not determine a constructor"),
    ],
)
def test_errors_say_where_and_what(write, text, sentence):
    path = write(text)
    with pytest.raises(ConfigError) as error:
        load_config(path)
    assert str(error.value).startswith(f"{path}: {sentence}")
    assert "\n" not in str(error.value)


def test_each_problem_has_its_own_line(write):
    with pytest.raises(ConfigError) as error:
        load_config(write("foo: 1\nmodel: gamma\nmethods: [{name: advi, m: 1}]"))
    assert len(str(error.value).splitlines()) == 3


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"none.yaml: cannot be read: No such file"):
        load_config(tmp_path / "none.yaml")


def test_exact_is_the_answer_of_the_model(write):
    text = "name: x\nmodel: mixture\nreference: exact\nmethods: [{name: advi%s}]"
    found = reference_of(load_config(write(text % "")))
    assert found["posterior"].equals(zoo.exact("mixture")["posterior"])
    # A method of that name is what is meant.
    assert reference_of(load_config(write(text % ", label: exact"))) == "exact"


FACTORY = """
import pymc as pm

def model(sd=1.0):
    with pm.Model() as model:
        pm.Normal("z", 0.0, sd)
    return model

def broken():
    raise RuntimeError("no data")

def number():
    return 3
"""


def test_code_beside_the_configuration_runs_if_allowed(write, tmp_path):
    (tmp_path / "mine.py").write_text(FACTORY)
    path = write("name: x\nmodel: mine.py:model\nparameters: {sd: 2.0}\n" + NUTS)
    config = load_config(path, allow_code=True)
    assert build_model(config, path, allow_code=True).free_RVs[0].name == "z"
    with pytest.raises(ConfigError, match="runs only with --allow-code"):
        build_model(config, path)


def test_a_factory_in_a_package_runs_if_allowed(write):
    path = write("name: x\nmodel: pymc_vi_ext.zoo.gamma:gamma\n" + NUTS)
    config = load_config(path, allow_code=True)
    assert len(build_model(config, path, allow_code=True).free_RVs) == 2


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("mine.py:broken", "mine.py:broken cannot be built: RuntimeError: no data"),
        ("mine.py:number", "mine.py:number returned int, not a pymc.Model"),
        ("mine.py:nothing", "mine.py:nothing cannot be loaded"),
        ("none.py:model", "there is no file"),
        ("no_such_package:model", "cannot be loaded: No module named 'no_such_package'"),
    ],
)
def test_code_that_gives_no_model_is_explained(write, tmp_path, model, message):
    (tmp_path / "mine.py").write_text(FACTORY)
    path = write(f"name: x\nmodel: {model}\n" + NUTS)
    config = load_config(path, allow_code=True)
    with pytest.raises(ConfigError, match=message):
        build_model(config, path, allow_code=True)
