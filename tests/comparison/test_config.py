"""Configurations and the sentences about what is wrong with them."""

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from pymc_vi_ext import zoo
from pymc_vi_ext.comparison import ConfigError, MethodSpec, load_config, runnable_names
from pymc_vi_ext.comparison.config import (
    build_model,
    check_reference,
    json_schema,
    reference_of,
    suite_names,
)

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
            "kernel_batch, correct, max_seconds.",
        ),
        (
            HEAD + NUTS + "draw: 3",
            "draw: unknown key; known keys: name, model, parameters, data, methods, reference, "
            "must_converge, seeds, draws, max_seconds, schedule, webhook.",
        ),
        (
            HEAD + NUTS + 'schedule: {cron: "0 25 * * *"}',
            "schedule.cron: should be the times of a cron expression, such as '0 3 * * *', not "
            "'0 25 * * *'.",
        ),
        (HEAD + NUTS + 'schedule: {cron: "0 0 3 * * *"}', "schedule.cron: should be the times of"),
        (HEAD + NUTS + 'schedule: {cron: "0 0 31 2 *"}', "schedule.cron: should be the times of"),
        (
            HEAD + NUTS + 'schedule: {cron: "0 3 * * *", timezone: ../Mars}',
            "schedule.timezone: should be the name of a time zone, such as 'Europe/Berlin', not "
            "'../Mars'.",
        ),
        (HEAD + NUTS + "schedule: {timezone: UTC}", "schedule.cron: this key is required."),
        (
            HEAD + NUTS + 'schedule: {cron: "0 3 * * *", zone: UTC}',
            "schedule.zone: unknown key; known keys: cron, timezone.",
        ),
        (HEAD + NUTS + "schedule: daily", "schedule: needs the key cron, as in `schedule: {cron: "),
        (HEAD + NUTS + "webhook: https://a/b", "webhook: names the environment variable that hold"),
        (
            HEAD + "methods: [{name: nutz}]",
            "methods[0].name: unknown method 'nutz'; known: " + ", ".join(runnable_names()) + ".",
        ),
        (HEAD + "methods: [{n: 3}]", "methods[0].name: this key is required; one of nuts, auto"),
        (HEAD + "methods: [nuts]", "methods[0]: needs keys, such as `- name: nuts`, not 'nuts'."),
        (
            HEAD + "methods: [{name: nuts, sampler: stan}]",
            "methods[0].sampler: needs 'pymc', 'nutpie', 'numpyro' or 'blackjax', not 'stan'.",
        ),
        (
            HEAD + "methods: [{name: advi, n: 0}]",
            "methods[0].n: needs a number from 1, not 0.",
        ),
        (HEAD + NUTS + "seeds: [1, two]", "seeds[1]: needs a whole number, not 'two'."),
        ("model: gamma\n" + NUTS, "name: this key is required."),
        ("name: x\nmodel: gama\n" + NUTS, "model: Unknown model 'gama': the known ones are gamma"),
        (HEAD + NUTS + "parameters: {m: 1}", "parameters: model 'gamma' has no parameter 'm'"),
        (HEAD + NUTS + "reference: advi", "reference: 'advi' is none of the methods that run: n"),
        (
            HEAD + NUTS + "reference: exact",
            "reference: no exact draws of gamma are known; there are some of the models mixture.",
        ),
        (
            HEAD + NUTS + "must_converge: [advi]",
            "must_converge: 'advi' is none of the methods that run: nuts.",
        ),
        (HEAD + NUTS + "seeds: {root: 1}", "seeds: number: field required."),
        (HEAD + NUTS + "seeds: {root: 1, number: 0}", "seeds: number: input should be greater"),
        (
            HEAD + NUTS + "data: {y: {file: y.csv}}",
            "data.y: say which `columns` of 'y.csv', and no `variable`.",
        ),
        (
            HEAD + NUTS + "data: {y: {file: y.nc, variable: y, column: y}}",
            "data.y.column: unknown key; known keys: file, zoo, columns, variable.",
        ),
        (HEAD + NUTS + "data: {y: {file: y.xls}}", "data.y: 'y.xls' is no file of a kind"),
        (HEAD + NUTS + "data: {y: {zoo: gama, variable: y}}", "data.y: there is no model 'gama'"),
        (HEAD + NUTS + "data: {y: {}}", "data.y: data come from a `file` or from a model"),
        (
            HEAD + NUTS + "data: {z: {zoo: gamma, variable: y}}",
            "parameters: model 'gamma' has no parameter 'z'",
        ),
        (
            HEAD + NUTS + "parameters: {y: 1}\ndata: {y: {zoo: gamma, variable: y}}",
            "data.y: is among the parameters too.",
        ),
        ("name: x\nmodels: [gamma]\n" + NUTS, "has several models: it is a suite"),
        (HEAD + NUTS + "seeds: [1, 1]", "seeds: The seeds [1, 1] are not all different."),
        (
            HEAD + "methods: [{name: nuts}, {name: nuts}]",
            "methods: 2 methods are called 'nuts': give each its own `label`.",
        ),
        ("name: x\nmodel: os:getcwd\n" + NUTS, "model: os:getcwd is code outside the zoo"),
        ("- 1", "has no keys"),
        ("a: [", "line 1: is not YAML: while parsing"),
        (
            "!!python/object/apply:os.getcwd []",
            "line 1: the tag 'tag:yaml.org,2002:python/object/apply:os.getcwd': values are ",
        ),
    ],
)
def test_errors_say_where_and_what(write, text, sentence):
    path = write(text)
    with pytest.raises(ConfigError) as error:
        load_config(path)
    assert str(error.value).startswith(f"{path}: {sentence}")
    assert "\n" not in str(error.value)


def test_an_address_of_a_webhook_is_not_repeated(write):
    for webhook in ("https://host/secret", "[https://host/secret]", "{secret: 1}"):
        with pytest.raises(ConfigError) as error:
            load_config(write(HEAD + NUTS + f"webhook: {webhook}"))
        assert "secret" not in str(error.value).replace("which is a secret", "")


def test_each_problem_has_its_own_line(write):
    with pytest.raises(ConfigError) as error:
        load_config(write("foo: 1\nmodel: gamma\nmethods: [{name: advi, m: 1}]"))
    assert len(str(error.value).splitlines()) == 3


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"none.yaml: cannot be read: No such file"):
        load_config(tmp_path / "none.yaml")


def test_exact_is_the_answer_of_the_model(write):
    text = "name: x\nmodel: mixture\nreference: exact\nmethods: [{name: advi%s}]"
    found = reference_of(load_config(write(text % "")), "c.yaml")
    assert found["posterior"].equals(zoo.exact("mixture")["posterior"])
    # A method of that name is what is meant.
    assert reference_of(load_config(write(text % ", label: exact")), "c.yaml") == "exact"


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
        (
            "no_such_package:model",
            "cannot be loaded: ModuleNotFoundError: No module named 'no_such_package'",
        ),
    ],
)
def test_code_that_gives_no_model_is_explained(write, tmp_path, model, message):
    (tmp_path / "mine.py").write_text(FACTORY)
    path = write(f"name: x\nmodel: {model}\n" + NUTS)
    config = load_config(path, allow_code=True)
    with pytest.raises(ConfigError, match=message):
        build_model(config, path, allow_code=True)


def test_seeds_are_derived_from_one(write):
    text = HEAD + NUTS + "seeds: {root: 7, number: %d}"
    seeds = load_config(write(text % 3)).seeds
    expected = [int(s.generate_state(1)[0]) for s in np.random.SeedSequence(7).spawn(3)]
    assert seeds == expected
    assert load_config(write(text % 2)).seeds == seeds[:2]


SUITE = """
name: all
models:
  - gamma
  - {model: mixture, reference: exact, draws: 50, must_converge: []}
  - {model: gamma, name: more data, parameters: {n: 900}, methods: [{name: nuts, tune: 7}]}
methods: [{name: nuts}, {name: advi}]
must_converge: [nuts]
seeds: {root: 3, number: 2}
draws: 100
"""


def test_models_of_a_suite_inherit(write):
    path = write(SUITE)
    names = suite_names(path)
    assert names == ["all - gamma", "all - mixture", "all - more data"]
    first, second, third = (load_config(path, comparison=name) for name in names)
    assert [c.name for c in (first, second, third)] == names
    assert [c.reference for c in (first, second, third)] == ["nuts", "exact", "nuts"]
    assert [c.draws for c in (first, second, third)] == [100, 50, 100]
    assert [len(c.specs()) for c in (first, second, third)] == [2, 2, 1]
    assert [c.must_converge for c in (first, second, third)] == [["nuts"], [], ["nuts"]]
    assert third.parameters == {"n": 900}
    changed = load_config(path, comparison=names[1], changes=["seeds=[5]"], only=["advi"])
    assert (changed.seeds, [spec.label for spec in changed.specs()]) == ([5], ["advi"])


def test_models_of_a_suite_keep_their_seeds_while_others_come_and_go(write):
    path = write(SUITE)
    seeds = {name: load_config(path, comparison=name).seeds for name in suite_names(path)}
    fewer = write(SUITE.replace("  - gamma\n", ""))
    assert load_config(fewer, comparison="all - mixture").seeds == seeds["all - mixture"]
    assert len({seed for own in seeds.values() for seed in own}) == 6


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (("name: all\n", ""), "name: this key is required."),
        (("draws: 100", "draw: 100"), "draw: unknown key; known keys: models, name, model,"),
        (("  - gamma\n", "  - 3\n"), "models[0]: needs a model, such as `- gamma`"),
        ((", name: more data", ""), "models[2]: there is a 'all - gamma' already: give each"),
        (("draws: 50", "draws: -1"), "draws: needs a number from 1, not -1."),
        (("model: mixture", "model: mixtur"), "model: Unknown model 'mixtur'"),
    ],
)
def test_errors_in_suites_say_where_and_what(write, change, sentence):
    path = write(SUITE.replace(*change))
    with pytest.raises(ConfigError) as error:
        [load_config(path, comparison=name) for name in suite_names(path)]
    assert str(error.value).startswith(f"{path}: {sentence}")


def test_a_reference_may_be_a_file(write, tmp_path):
    path = write(HEAD + "reference: kept.nc\nmethods: [{name: advi}]")
    config = load_config(path)
    with pytest.raises(ConfigError, match=r"reference: .*kept.nc is none: .*No such file"):
        reference_of(config, path)
    draws = {
        name: (("chain", "draw"), np.random.default_rng(1).normal(size=(2, 9))) for name in "ab"
    }
    xr.DataTree.from_dict({"posterior": xr.Dataset(draws)}).to_netcdf(
        tmp_path / "kept.nc", engine="h5netcdf"
    )
    found = reference_of(config, path)
    assert found.name == "kept"
    assert found["posterior"]["a"].shape == (2, 9)
    model = build_model(config, path)
    with pytest.raises(ConfigError, match="reference: The reference has no variable of the model"):
        check_reference(config, path, model)
    moments = xr.Dataset({"alpha": ("moment", [2.0, 0.1])}, coords={"moment": ["mean", "sd"]})
    moments.to_netcdf(tmp_path / "kept.nc", engine="h5netcdf")
    check_reference(config, path, model)
    assert reference_of(config, path).equals(moments)
