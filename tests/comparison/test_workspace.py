"""What serves again, and what does not."""

import dataclasses

import pymc as pm
import pytest

from pymc_vi_ext.comparison import MethodResult, Status
from pymc_vi_ext.comparison.processes import Run
from pymc_vi_ext.comparison.storage import save_result
from pymc_vi_ext.comparison.workspace import Workspace, fingerprint, is_finished

CONFIG = {
    "name": "x",
    "model": "gamma",
    "methods": [{"name": "advi", "n": 50}, {"name": "advi", "n": 50, "label": "again"}],
    "reference": None,
}
RUN = Run(CONFIG, "config.yaml", False, 0, 1)


def with_config(**changes):
    return dataclasses.replace(RUN, config={**CONFIG, **changes})


@pytest.mark.parametrize(
    "other",
    [
        dataclasses.replace(RUN, seed=2),
        dataclasses.replace(RUN, method=1),
        with_config(draws=7),
        with_config(parameters={"n": 30}),
        with_config(model="mixture"),
        with_config(methods=[{"name": "advi", "n": 51}]),
        with_config(methods=[{"name": "fullrank_advi", "n": 50, "label": "advi"}]),
    ],
)
def test_a_result_depends_on_all_that_makes_it(tmp_path, other):
    assert Workspace(tmp_path).result(RUN) != Workspace(tmp_path).result(other)


def test_labels_that_look_alike_in_folders_have_folders_of_their_own(tmp_path):
    labels = ["a b", "a_b", "a/b", "..", "../..", "_", "x" * 90, "x" * 91]
    runs = [with_config(methods=[{"name": "advi", "label": label}]) for label in labels]
    found = {Workspace(tmp_path).result(run) for run in runs}
    assert len(found) == len(labels)
    assert {folder.resolve().parent for folder in found} == {(tmp_path / "results").resolve()}


@pytest.mark.parametrize(
    "same",
    [
        with_config(name="another"),
        with_config(reference="exact"),
        with_config(methods=[{"name": "advi", "n": 50, "max_seconds": 9}]),
        dataclasses.replace(RUN, path="elsewhere.yaml"),
    ],
)
def test_a_result_serves_every_comparison_that_asks_for_it(tmp_path, same):
    assert Workspace(tmp_path).result(RUN) == Workspace(tmp_path).result(same)


def test_a_result_depends_on_code_outside_the_zoo(tmp_path):
    file = tmp_path / "models.py"
    run = Run({**CONFIG, "model": "models.py:build"}, str(tmp_path / "c.yaml"), True, 0, 1)
    file.write_text("a = 1")
    before = Workspace(tmp_path).result(run)
    file.write_text("a = 2")
    assert Workspace(tmp_path).result(run) != before


def test_a_token_makes_another_result(tmp_path):
    assert Workspace(tmp_path).result(RUN) != Workspace(tmp_path).result(RUN, "tonight")


def small_model(data=(1.0, 2.0), sigma=1.0, **parts):
    with pm.Model() as model:
        x = pm.Normal("x", 0.0, sigma)
        known = pm.Data("known", [1.0, 1.0])
        pm.Normal("y", x * known, 1.0, observed=list(data))
        for name, part in parts.items():
            pm.Deterministic(name, part(x))
    return model


@pytest.mark.parametrize(
    "other",
    [
        {"data": (1.0, 2.5)},
        {"sigma": 2.0},
        {"square": lambda x: x**2},
    ],
)
def test_a_fingerprint_is_that_of_model_and_data(other):
    assert fingerprint(small_model()) == fingerprint(small_model())
    assert fingerprint(small_model()) != fingerprint(small_model(**other))
    changed = small_model()
    pm.set_data({"known": [1.0, 2.0]}, model=changed)
    assert fingerprint(small_model()) != fingerprint(changed)


@pytest.mark.parametrize("status", Status)
def test_only_what_has_finished_serves(tmp_path, status):
    assert not is_finished(tmp_path)
    save_result(MethodResult("advi", "advi", 1, status), tmp_path)
    assert is_finished(tmp_path) is (status is Status.FINISHED)


def test_an_execution_is_done_once_the_tracker_has_everything(tmp_path):
    execution = Workspace(tmp_path).execution("x", [RUN], None, "jsonl:///x")
    assert not execution.done
    save_result(MethodResult("advi", "advi", 1, Status.FINISHED), execution.results[0])
    execution.keep_ids({"parent": "p", "children": ["c"]})
    execution.keep_table([{"method": "advi", "value": float("nan")}])
    assert not execution.done
    execution.mark_tracked(0)
    execution.mark_tracked(None)
    assert execution.done
    [found] = Workspace(tmp_path).executions()
    assert found == execution
    # Another attempt has runs of its own.
    execution.keep_ids({"parent": "q", "children": ["d"]})
    assert not execution.is_tracked(0)
    assert not execution.done
