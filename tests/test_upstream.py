"""Whether what the package leans on is there, does what it is for, and is reached in one place."""

import ast
import functools
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys

from pathlib import Path

import numpy as np
import pymc as pm
import pytensor
import pytensor.tensor as pt
import pytest

from pymc.logprob.utils import CheckParameterValue
from pymc.variational.opvi import Group
from pytensor.compile.builders import OpFromGraph
from pytensor.compile.mode import Mode, get_mode, optdb
from pytensor.graph.fg import FunctionGraph
from pytensor.graph.rewriting.utils import rewrite_graph
from pytensor.scan.op import Scan
from pytensor.tensor.elemwise import DimShuffle, Elemwise
from pytensor.tensor.math import Dot
from pytensor.tensor.random.op import RandomVariable
from pytensor.tensor.shape import Shape_i
from pytensor.xtensor.type import XTensorType

import pymc_vi_ext

from pymc_vi_ext import upstream
from pymc_vi_ext.python_only import python_only
from pymc_vi_ext.upstream import LEANED_ON

PACKAGE = Path(pymc_vi_ext.__file__).parent
CANARIES = {}


def canary(*names):
    """Register what asks whether the rows of these names do what they are for."""

    def register(ask):
        CANARIES.update(dict.fromkeys(names, ask))
        return ask

    return register


@pytest.mark.parametrize("row", LEANED_ON, ids=str)
def test_is_there(row):
    if row.package == "mlflow":
        pytest.importorskip("mlflow")
    try:
        if row.name.replace(".", "").isidentifier():
            row.find()
        if row.name in CANARIES:
            CANARIES[row.name]()
    except Exception as error:
        pytest.fail(f"{row} is not what it was. It is for this: {row.purpose}. {error!r}")


def test_what_cannot_be_looked_up_is_tried():
    dynamic = {row.name for row in LEANED_ON if not row.name.replace(".", "").isidentifier()}
    assert dynamic <= set(CANARIES) <= {row.name for row in LEANED_ON}


def test_what_is_missing_is_named():
    row = upstream.Upstream("pymc.util", "gone_tomorrow", "the evening news")
    with pytest.raises(ImportError, match=r"pymc has no pymc\.util\.gone_tomorrow.*evening news"):
        row.find()


# A model with all that the canaries ask about.


@functools.cache
def model():
    with pm.Model(coords={"city": ["Rome", "Oslo"]}) as made:
        scale = pm.HalfNormal("scale")
        x = pm.Normal("x", dims="city")
        data = pm.Data("data", [1.0, 2.0])
        pm.Normal("y", x * data, scale, observed=[0.0, 1.0])
    return made


def mean_field(**kwargs):
    return pm.MeanField(model=model(), **kwargs)


def group_of(cls=None, **kwargs):
    """Return a group of the model's `x`, of PyMC's mean field or another class."""
    cls = cls or upstream.MeanFieldGroup
    return cls([model()["x"]], model=model(), **kwargs)


class Bare(Group):
    """A group that is not constructed any further than PyMC's base class does."""

    __param_spec__ = {"mu": ("d",), "W": ("d", "r")}  # noqa: RUF012
    short_name = "bare"

    def __init_group__(self, group):
        super().__init_group__(group)
        self.seen = dict(upstream.group_options(self))


# ArviZ, JAX, MLflow


@canary("array_stats")
def _array_stats():
    draws = np.random.default_rng(0).normal(size=500)
    grid, density, _ = upstream.array_stats.kde(draws)
    assert abs(np.trapezoid(density, grid) - 1) < 0.05
    assert np.isfinite(float(upstream.array_stats.psislw(draws)[1]))


@canary("PyMCModel._clean_results")
def _cleaned():
    from inspect import signature

    from bambi.backend.pymc import PyMCModel

    arguments = signature(PyMCModel._clean_results).parameters
    assert list(arguments) == ["self", "idata", "omit_offsets", "include_response_params"]


@canary("wrap_key_data(impl='threefry2x32')")
def _key():
    import jax

    data = np.array([7, 11], dtype=np.uint32)
    key = jax.random.wrap_key_data(data, impl="threefry2x32")
    np.testing.assert_array_equal(jax.random.key_data(key), data)


@canary("MlflowClient().log_image")
def _image():
    from mlflow import MlflowClient

    logged = []

    class Client(MlflowClient):
        def __init__(self):
            pass

        def _log_artifact_helper(self, run_id, file):
            logged.append(file)
            return super()._log_artifact_helper(run_id, file)

        def log_artifact(self, run_id, local_path, artifact_path=None):
            pass

        def set_tag(self, *args, **kwargs):
            pass

    image = np.zeros((2, 2, 3), dtype=np.uint8)
    Client().log_image("run", image, key="a/b", step=0, timestamp=1, synchronous=True)
    assert logged
    assert all(name.startswith(upstream.image_prefix("a/b", 0)) for name in logged)


@canary("utils.mlflow_tags.MLFLOW_PARENT_RUN_ID")
def _parent_tag():
    from mlflow.utils import mlflow_tags

    assert mlflow_tags.MLFLOW_PARENT_RUN_ID == upstream.PARENT_RUN_TAG


@canary(
    "utils.validation.MAX_METRICS_PER_BATCH",
    "utils.validation.MAX_PARAMS_TAGS_PER_BATCH",
)
def _batches():
    from mlflow.utils import validation

    from pymc_vi_ext.tracking import mlflow_tracker

    assert validation.MAX_METRICS_PER_BATCH >= mlflow_tracker._METRICS_AT_ONCE
    assert validation.MAX_PARAMS_TAGS_PER_BATCH >= mlflow_tracker._PARAMS_AT_ONCE


# PyMC


@canary("find_observations", "find_constants", "coords_and_dims_for_inferencedata")
def _groups_of_a_datatree():
    np.testing.assert_array_equal(upstream.find_observations(model())["y"], [0.0, 1.0])
    np.testing.assert_array_equal(upstream.find_constants(model())["data"], [1.0, 2.0])
    coords, dims = upstream.coords_and_dims_for_inferencedata(model())
    assert list(coords["city"]) == ["Rome", "Oslo"]
    assert list(dims["x"]) == ["city"]


@canary("FlatRV", "HalfFlatRV")
def _improper():
    assert isinstance(pm.Flat.dist().owner.op, upstream.FlatRV)
    assert isinstance(pm.HalfFlat.dist().owner.op, upstream.HalfFlatRV)


@canary("MinibatchOp", "MinibatchRandomVariable")
def _minibatches():
    data = pt.as_tensor(np.arange(6.0))
    batch = pm.Minibatch(data, batch_size=2)
    assert isinstance(batch.owner.op, upstream.MinibatchOp)
    assert batch.owner.inputs[0] is data
    with pm.Model() as small:
        y = pm.Normal("y", observed=batch, total_size=6)
    assert isinstance(y.owner.op, upstream.MinibatchRandomVariable)
    assert [size.data for size in y.owner.inputs[1:]] == [6]
    assert small.rvs_to_values[y] is batch


@canary("_known_scan_ignored_inputs")
def _data_of_minibatches():
    data = pt.as_tensor(np.arange(6.0))
    batch = pm.Minibatch(data, batch_size=2)
    assert upstream._known_scan_ignored_inputs([batch * 2.0]) == [data]


@canary("default_progress_theme")
def _theme():
    from rich.theme import Theme

    assert isinstance(upstream.default_progress_theme, Theme)


@canary("collect_default_updates", "find_rng_nodes", "reseed_rngs")
def _generators():
    rng, value = pt.random.normal(rng=pt.random.shared_rng(seed=1), return_next_rng=True)
    found = upstream.collect_default_updates(inputs=[], outputs=[value])
    assert list(found.values()) == [rng]
    assert upstream.find_rng_nodes([value]) == list(found)
    upstream.reseed_rngs(list(found), 3)
    first = value.eval()
    upstream.reseed_rngs(list(found), 3)
    assert value.eval() == first


@canary("get_jaxified_logp", "get_jaxified_graph")
def _jaxified():
    with pm.Model() as small:
        pm.Normal("z")
    logp = upstream.get_jaxified_logp(small)
    np.testing.assert_allclose(logp([np.zeros(())]), -0.5 * np.log(2 * np.pi), rtol=1e-6)
    function = upstream.get_jaxified_graph(inputs=small.value_vars, outputs=small.value_vars)
    np.testing.assert_allclose(function(np.ones(()))[0], 1.0)


@canary("get_default_varnames")
def _default_names():
    kept = upstream.get_default_varnames(model().unobserved_value_vars, include_transformed=False)
    assert {v.name for v in kept} == {"scale", "x"}


@canary("absolute", "relative")
def _distances():
    assert upstream.absolute(np.array([3.0]), np.array([1.0])) == 2.0
    assert abs(upstream.relative(np.array([3.0]), np.array([1.0])) - 2.0) < 1e-6


@canary("Empirical().histogram", "Approximation.all_histograms", "Approximation.any_histograms")
def _histogram():
    approx = pm.Empirical(size=5, model=model())
    assert approx.histogram.get_value().shape == (5, 3)
    assert approx.all_histograms
    assert not mean_field().any_histograms


@canary("FullRankGroup().L")
def _full_rank_factor():
    group = group_of(upstream.FullRankGroup)
    group.params_dict["L_tril"].set_value(np.array([-1.0, 0.3, 2.0]))
    softplus = np.logaddexp(0.0, [-1.0, 2.0])
    np.testing.assert_allclose(group.L.eval(), [[softplus[0], 0.0], [0.3, softplus[1]]])


@canary("MeanFieldGroup().std")
def _mean_field_std():
    group = group_of()
    group.params_dict["rho"].set_value(np.array([-1.0, 2.0]))
    np.testing.assert_allclose(group.std.eval(), np.logaddexp(0.0, [-1.0, 2.0]))


@canary("SingleGroupApproximation")
def _one_group():
    assert issubclass(pm.MeanField, upstream.SingleGroupApproximation)
    assert mean_field().std.ndim == 1


@canary("State", "Inference().hist")
def _refine():
    with model():
        advi = pm.ADVI()
    assert advi.hist.size == 0
    advi.state = upstream.State(7, step=lambda: 1.5, callbacks=[], score=True)
    advi.refine(2, progressbar=False)
    np.testing.assert_array_equal(advi.hist, [1.5, 1.5])
    assert advi.state.callbacks == []


@canary("Inference().objective", "ObjectiveFunction.obj_params", "ObjectiveFunction.test_params")
def _objective():
    with model():
        advi = pm.ADVI()
    assert isinstance(advi.objective, upstream.ObjectiveFunction)
    assert set(advi.objective.obj_params) == set(advi.approx.params)
    assert not advi.objective.test_params


@canary("ObjectiveUpdates")
def _updates():
    with model():
        advi = pm.ADVI()
    updates = advi.objective.updates(obj_optimizer=pm.sgd(learning_rate=0.1))
    assert isinstance(updates, upstream.ObjectiveUpdates)
    assert updates.loss.ndim == 0
    assert set(updates) == set(advi.approx.params)


@canary("KL().beta")
def _beta():
    assert pm.variational.operators.KL(mean_field()).beta == 1


@canary("Operator().has_test_function", "Operator.require_logq", "Operator.returns_loss")
def _marks():
    stein = pm.variational.operators.KSD(pm.Empirical(size=5, model=model()))
    divergence = pm.variational.operators.KL(mean_field())
    assert stein.has_test_function
    assert not divergence.has_test_function
    assert (stein.require_logq, divergence.require_logq) == (False, True)
    assert (stein.returns_loss, divergence.returns_loss) == (False, True)


@canary("Operator.objective_class", "KSDObjective")
def _objective_class():
    assert issubclass(pm.variational.operators.KSD.objective_class, upstream.KSDObjective)

    class Own(upstream.ObjectiveFunction):
        pass

    class Operator(pm.variational.operators.KL):
        objective_class = Own

    assert isinstance(Operator(mean_field())(None), Own)


@canary("Approximation()._cache", "node_property")
def _cache():
    approx = mean_field()
    node = approx.symbolic_logq
    assert approx.symbolic_logq is node
    view = object.__new__(type(approx))
    vars(view).update(upstream.without_cache(approx))
    assert view.symbolic_logq is not node
    assert approx.symbolic_logq is node


@canary("Approximation.get_optimization_replacements")
def _without_a_loop():
    approx = mean_field()
    assert set(approx.get_optimization_replacements(1, 0)) == {approx.varlogp, approx.datalogp}


@canary(
    "Approximation.inputs",
    "Approximation.to_flat_input",
    "Approximation.symbolic_randoms",
)
def _flat():
    approx = mean_field()
    [point], [draws] = approx.inputs, approx.symbolic_randoms
    assert (point.ndim, draws.ndim) == (1, 2)
    assert point in pytensor.graph.graph_inputs([approx.to_flat_input(model().logp())])


@canary("Approximation.set_size_and_deterministic", "Approximation.symbolic_logq")
def _sized():
    approx = mean_field()
    drawn = approx.set_size_and_deterministic(approx.symbolic_logq, 4, 0)
    assert drawn.eval().shape == (4,)


@canary("Group()._kwargs")
def _options():
    assert group_of(Bare, rank=3).seen == {"rank": 3}


@canary("Group().include_transformed")
def _transformed():
    [group] = mean_field().groups
    with python_only():
        assert "scale_log__" not in group.state.mean
        group.include_transformed = True
        assert "scale_log__" in group.state.mean


@canary("Group().ordering")
def _ordering():
    assert upstream.layout(mean_field().groups[0]) == {
        "scale_log__": (slice(0, 1), ()),
        "x": (slice(1, 3), (2,)),
    }


@canary("Group().rng")
def _rng():
    drawn = group_of(random_seed=5).rng.normal()
    assert drawn == group_of(random_seed=5).rng.normal()


@canary("Group().shared_params", "Group.params_dict")
def _parameters():
    group = group_of(Bare)
    group.shared_params = {"mu": pytensor.shared(np.zeros(2), "mu")}
    assert group.params_dict == group.shared_params
    assert group.params == list(group.shared_params.values())


@canary("Group().symbolic_initial", "Group._new_initial_shape")
def _noise():
    # Of a family whose noise is wider than its draws.
    group = group_of(pymc_vi_ext.approximations.LowRankGroup, rank=1)
    assert group.symbolic_initial in pytensor.graph.graph_inputs([group.symbolic_random])
    replaced = group.make_size_and_deterministic_replacements(4, 0)
    assert replaced[group.symbolic_initial].eval().shape == (4, 3)


@canary("Group().user_params", "Group._check_user_params")
def _user_parameters():
    params = {"mu": pt.zeros(2), "W": pt.zeros((2, 3))}
    group = group_of(Bare, params=params)
    assert group.user_params is params
    assert upstream.takes_user_params(group, {"r": 3})
    assert set(group.params_dict) == set(params)
    assert not upstream.takes_user_params(group_of(Bare), {"r": 3})


@canary("Group._finalize_init")
def _finalize():
    group = group_of(Bare)
    upstream.end_construction(group)
    assert "_kwargs" not in vars(group)


@canary("Group._prepare_start")
def _start():
    group = group_of()
    np.testing.assert_array_equal(upstream.starting_means(group, {"x": [4.0, 5.0]}), [4.0, 5.0])


@canary("Group.group_for_short_name", "Group.register")
def _names():
    assert Group.group_for_short_name("mean_field") is upstream.MeanFieldGroup
    assert Group.group_for_short_name("low_rank") is pymc_vi_ext.approximations.LowRankGroup


@canary("ParametrizationError")
def _error():
    assert issubclass(upstream.ParametrizationError, ValueError)


@canary("Stein.approx_symbolic_matrices", "Stein.dlogp")
def _stein():
    stein = pm.variational.Stein(pm.Empirical(size=5, model=model()), use_histogram=True)
    assert [matrix.flatten(2).ndim for matrix in stein.approx_symbolic_matrices] == [2]
    assert stein.dlogp.ndim == 2


@canary("Kernel")
def _kernel():
    assert isinstance(pm.variational.test_functions.rbf, upstream.Kernel)


@canary("adam()")
def _partial():
    optimizer = pm.adam(learning_rate=0.5)
    assert isinstance(optimizer, functools.partial)
    assert optimizer.func is pm.variational.updates.adam
    assert optimizer.keywords["learning_rate"] == 0.5


@canary("get_or_compute_grads")
def _gradients():
    x = pytensor.shared(np.ones(2))
    given = [pt.ones(2)]
    assert upstream.get_or_compute_grads(given, [x]) == given
    [gradient] = upstream.get_or_compute_grads(pt.sum(x**2), [x])
    np.testing.assert_array_equal(gradient.eval(), [2.0, 2.0])


# PyTensor


def rewritten(outputs, *include, exclude=(), inputs=()):
    """Return the Ops that the JAX mode leaves in a graph."""
    graph = FunctionGraph(list(inputs), list(outputs), clone=True)
    base = get_mode("JAX")
    mode = Mode(base.linker, base.provided_optimizer.including(*include))
    mode.excluding(*exclude).optimizer.rewrite(graph)
    return [node.op for node in graph.toposort()]


def known_to_pytensor(name):
    """Tell whether PyTensor's database of rewrites, or one inside it, has the name."""

    def search(database):
        if name in database.__db__:
            return True
        inside = (entry for entries in database.__db__.values() for entry in entries)
        return any(search(entry) for entry in inside if hasattr(entry, "__db__"))

    return search(optdb)


@canary("Mode().provided_optimizer")
def _mode():
    base = get_mode("JAX")
    more = Mode(base.linker, base.provided_optimizer.including(upstream.REMOVE_CHECK))
    assert upstream.REMOVE_CHECK in more.provided_optimizer.include
    assert more.linker is base.linker


def guarded():
    value, scale = pt.vector("value"), pt.scalar("scale")
    return [value, scale], pm.logp(pm.Normal.dist(0.0, scale), value)


@canary(f"optdb[{upstream.CHECK_TO_INFINITY!r}]")
def _check_to_infinity():
    assert known_to_pytensor(upstream.CHECK_TO_INFINITY)
    inputs, logp = guarded()
    assert any(isinstance(op, CheckParameterValue) for op in rewritten([logp], inputs=inputs))
    left = rewritten([logp], upstream.CHECK_TO_INFINITY, inputs=inputs)
    assert not any(isinstance(op, CheckParameterValue) for op in left)
    mode = Mode("py", get_mode("FAST_COMPILE").provided_optimizer)
    function = pytensor.function(inputs, logp, mode=mode.including(upstream.CHECK_TO_INFINITY))
    assert function(np.zeros(1), -1.0) == -np.inf


@canary(f"optdb[{upstream.REMOVE_CHECK!r}]")
def _remove_check():
    assert known_to_pytensor(upstream.REMOVE_CHECK)
    inputs, logp = guarded()
    left = rewritten([logp], upstream.REMOVE_CHECK, inputs=inputs)
    assert not any(isinstance(op, CheckParameterValue) for op in left)
    # And nothing in its place.
    assert len(left) < len(rewritten([logp], upstream.CHECK_TO_INFINITY, inputs=inputs))


@canary(f"optdb[{upstream.RANDOM_IN_PLACE!r}]")
def _random_in_place():
    assert known_to_pytensor(upstream.RANDOM_IN_PLACE)
    rng = pt.random.shared_rng(seed=1)
    following, value = pt.random.normal(size=(2,), rng=rng, return_next_rng=True)
    function = pytensor.function(
        [],
        value,
        updates={rng: following},
        mode=Mode("py", get_mode("FAST_COMPILE").provided_optimizer).including(
            upstream.RANDOM_IN_PLACE
        ),
    )
    ops = [node.op for node in function.maker.fgraph.toposort()]
    assert [op.inplace for op in ops if isinstance(op, RandomVariable)] == [True]


@canary(f"optdb[{upstream.SLICES_OF_ONE!r}]")
def _slices_of_one():
    """Where this fails because the two agree, PyTensor is mended and may have its rewrite back."""
    assert known_to_pytensor(upstream.SLICES_OF_ONE)
    x = pt.tensor("x", shape=(5,))
    last = x[:3:-1].dimshuffle()
    wrong, right = (
        pytensor.function([x], last, mode=Mode("py", query))(np.arange(5.0))
        for query in (
            get_mode("FAST_RUN").provided_optimizer.including(upstream.SLICES_OF_ONE),
            get_mode("FAST_RUN").provided_optimizer.excluding(upstream.SLICES_OF_ONE),
        )
    )
    assert right == 4.0
    assert wrong == 0.0


@canary(f"optdb[{upstream.LOWER_XTENSOR!r}]")
def _lower_xtensor():
    from pytensor import xtensor as px

    assert known_to_pytensor(upstream.LOWER_XTENSOR)
    x = px.as_xtensor(pt.matrix("x"), dims=("a", "b"))
    total = (x * x).sum("a").values
    [lowered] = rewrite_graph([total], include=(upstream.LOWER_XTENSOR,))
    labelled = [
        v for v in pytensor.graph.traversal.ancestors([lowered]) if isinstance(v.type, XTensorType)
    ]
    assert not labelled


@canary(f"optdb[{upstream.DIAGONAL_PRODUCTS!r}]")
def _diagonal_products():
    assert known_to_pytensor(upstream.DIAGONAL_PRODUCTS)
    v, X = pt.vector("v", shape=(3,)), pt.matrix("X", shape=(3, 3))
    _products(pt.diag(v) @ X, [v, X], upstream.DIAGONAL_PRODUCTS)


@canary(f"optdb[{upstream.SELECTION_PRODUCTS!r}]")
def _selection_products():
    assert known_to_pytensor(upstream.SELECTION_PRODUCTS)
    X, places = pt.matrix("X", shape=(3, 3)), pt.lvector("places")
    _products(X @ pt.eye(3)[:, places], [X, places], upstream.SELECTION_PRODUCTS)


def _products(product, inputs, name):
    """Check that the rewrite `name`, and no other, turns a product into something else."""
    kept = rewritten([product], exclude=(name,), inputs=inputs)
    assert any(isinstance(op, Dot) for op in kept)
    assert not any(isinstance(op, Dot) for op in rewritten([product], inputs=inputs))


@canary("ViewOp")
def _view():
    assert isinstance(pytensor.compile.ops.view_op(pt.vector()).owner.op, upstream.ViewOp)


@canary("AllocDiag", "LogAddExp", "LogSumExp", "XLog1PY", "XLogY")
def _graphs_in_an_op():
    kinds = (
        *(upstream.AllocDiag, upstream.LogAddExp, upstream.LogSumExp),
        *(upstream.XLog1PY, upstream.XLogY),
    )
    assert all(issubclass(kind, OpFromGraph) for kind in kinds)


@canary("inline_ofg_node")
def _inline():
    v = pt.vector("v")
    made = pt.diag(v)
    assert isinstance(made.owner.op, upstream.AllocDiag)
    [inlined] = upstream.inline_ofg_node(made.owner)
    assert not isinstance(inlined.owner.op, OpFromGraph)
    np.testing.assert_array_equal(inlined.eval({v: [1.0, 2.0]}), np.diag([1.0, 2.0]))


@canary("SharedVariable().container.storage")
def _storage():
    variable = pytensor.shared(np.zeros(2))
    before = upstream.storage(variable)
    assert upstream.storage(variable) is before
    variable.set_value(np.zeros(2))
    assert upstream.storage(variable) is not before
    upstream.set_storage(variable, np.ones(2))
    np.testing.assert_array_equal(variable.get_value(), [1.0, 1.0])


@canary("SharedVariable().default_update")
def _counter():
    step = pytensor.shared(np.float64(0.0))
    assert upstream.default_update(step) is None
    upstream.set_default_update(step, step + 1.0)
    assert upstream.default_update(step) is not None
    function = pytensor.function([], step * 2.0, mode="FAST_COMPILE")
    assert [float(function()) for _ in range(3)] == [0.0, 2.0, 4.0]


@canary("Variable().tag")
def _notes():
    old, new = pt.vector("old"), pt.vector()
    old.tag.note = "kept"
    upstream.share_notes(new, old)
    assert (new.name, new.tag.note) == ("old", "kept")


@canary("HasInnerGraph")
def _inner_graphs():
    assert issubclass(Scan, upstream.HasInnerGraph)
    assert issubclass(OpFromGraph, upstream.HasInnerGraph)


@canary("jax_funcify", "fgraph_to_python")
def _to_jax():
    x = pt.vector("x")
    graph = FunctionGraph([x], [pt.exp(x)], clone=True)
    function = upstream.fgraph_to_python(
        graph, upstream.jax_funcify, type_conversion_fn=upstream.jax_typify
    )
    np.testing.assert_allclose(np.asarray(function(np.zeros(2))[0]), [1.0, 1.0])


@canary("jax_typify")
def _typify():
    import jax

    made = upstream.jax_typify(np.random.default_rng(1))
    assert jax.random.key_data(made[upstream.JAX_STATE]).shape == (2,)
    rng = pt.random.shared_rng(seed=1)
    node = pt.random.normal(size=(2,), rng=rng, return_next_rng=True)[0].owner
    draw = upstream.jax_funcify(node.op, node=node)
    key = jax.random.wrap_key_data(np.zeros(2, np.uint32), impl="threefry2x32")
    following, _ = draw({upstream.JAX_STATE: key}, np.array([2]), 0.0, 1.0)
    assert not np.array_equal(
        jax.random.key_data(following[upstream.JAX_STATE]), np.zeros(2, np.uint32)
    )


@canary("_as_tensor_variable")
def _conversion():
    class Seven:
        pass

    @upstream.converts(Seven)
    def _(seven, name=None, ndim=None, **kwargs):
        return pt.constant(7.0)

    assert float((pt.constant(1.0) + Seven()).eval()) == 8.0


@canary("infer_static_shape")
def _static_shape():
    assert upstream.infer_static_shape([pt.constant(3)])[1] == (3,)


@canary("Blockwise().core_op", "Blockwise.batch_ndim")
def _blockwise():
    from pytensor.tensor.linalg import cholesky

    node = cholesky(pt.tensor3()).owner
    assert node.op.core_op == cholesky(pt.matrix()).owner.op.core_op
    assert node.op.batch_ndim(node) == 1


@canary(
    "Split().len_splits",
    "DimShuffle().new_order",
    "Elemwise().scalar_op",
    "Shape_i().i",
)
def _fields_of_ops():
    parts = pt.split(pt.vector(), [1, 2], n_splits=2)
    assert parts[0].owner.op.len_splits == 2
    transposed = pt.matrix().T.owner.op
    assert isinstance(transposed, DimShuffle)
    assert tuple(transposed.new_order) == (1, 0)
    added = pt.add(pt.vector(), 1.0).owner.op
    assert isinstance(added, Elemwise)
    assert isinstance(added.scalar_op, pytensor.scalar.Add)
    assert Shape_i(1).i == 1


@canary("TensorType.constant_type")
def _constant():
    kind = pt.lscalar().type
    assert float(kind.constant_type(kind, np.asarray(4)).eval()) == 4


# In one place


def trees():
    """Yield place and syntax tree of every module of the package but `upstream`."""
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.name != "upstream.py":
            yield path.relative_to(PACKAGE), ast.parse(path.read_text(encoding="utf-8"))


def is_private(name):
    return name.startswith("_") and not name.startswith("__")


def names_defined(tree):
    """Return the private names that a module gives to its own: functions, fields, attributes."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            found.add(node.attr)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
    return {name for name in found if is_private(name)}


# Parts of names in the table that nothing but `upstream` may say.
THROUGH_FUNCTIONS = {"container", "default_update", "ordering", "storage", "tag"} | {
    part for row in LEANED_ON for part in re.findall(r"\w+", row.name) if is_private(part)
}
STRINGS = {upstream.JAX_STATE, upstream.PARENT_RUN_TAG} | {
    name for row in LEANED_ON for name in re.findall(r"optdb\['(\w+)'\]", row.name)
}
IMPORTABLE = {(row.place, row.name) for row in LEANED_ON if row.name.isidentifier()}
# Documented, of named tuples.
PROMISED = {"_replace", "_asdict", "_fields"}


def reached_past(tree, own):
    """Yield line and text of what a module takes from its dependencies past `upstream`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            foreign = is_private(node.attr) and node.attr not in own | PROMISED
            if foreign or node.attr in THROUGH_FUNCTIONS:
                yield node.lineno, ast.unparse(node)
        elif isinstance(node, ast.Constant) and node.value in STRINGS:
            yield node.lineno, repr(node.value)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                # Python documents `_thread`.
                private = any(map(is_private, alias.name.split(".")))
                if private and alias.name not in sys.stdlib_module_names:
                    yield node.lineno, ast.unparse(node)
        elif isinstance(node, ast.ImportFrom) and not node.module.startswith("pymc_vi_ext"):
            for alias in node.names:
                private = any(map(is_private, [*node.module.split("."), alias.name]))
                if private or (node.module, alias.name) in IMPORTABLE:
                    yield node.lineno, f"from {node.module} import {alias.name}"


def test_the_rest_of_the_package_goes_through_upstream():
    own = set().union(*(names_defined(tree) for _, tree in trees()))
    places = [
        f"{path}:{line}: {text}" for path, tree in trees() for line, text in reached_past(tree, own)
    ]
    assert not places, "\n".join(["Go through pymc_vi_ext/upstream.py:", *places])


@pytest.mark.parametrize(
    "line",
    [
        "group._kwargs",
        "self._prepare_start(start)",
        "variable.container.storage[0]",
        "from pytensor.tensor import _as_tensor_variable",
        "from pymc._secret import thing",
        "import pymc._secret",
        "from pymc.backends.arviz import find_constants",
        "mode.including('random_make_inplace')",
    ],
)
def test_what_goes_past_is_found(line):
    assert list(reached_past(ast.parse(line), own={"_kept"}))


@pytest.mark.parametrize("line", ["self._kept", "other._kept", "sums._replace(a=1)", "x.__dict__"])
def test_what_is_its_own_is_not(line):
    assert not list(reached_past(ast.parse(line), own={"_kept"}))


def test_private_methods_that_are_overridden_are_in_the_table():
    known = {part for row in LEANED_ON for part in re.findall(r"\w+", row.name)}
    skipped = {"pymc_vi_ext.comparison.config"}  # pydantic's models, which hold its own names
    known.add("_abc_impl")  # Python's own, of every abstract class
    overridden = []
    for module in pkgutil.walk_packages(pymc_vi_ext.__path__, "pymc_vi_ext."):
        if module.name in skipped:
            continue
        for cls in vars(importlib.import_module(module.name)).values():
            if not inspect.isclass(cls) or cls.__module__ != module.name:
                continue
            foreign = [
                base
                for base in cls.__mro__
                if base.__module__.partition(".")[0] in {"pymc", "pytensor"}
            ]
            overridden += [
                f"{cls.__module__}.{cls.__qualname__}.{name}"
                for name in vars(cls)
                if is_private(name) and name not in known
                if any(name in vars(base) for base in foreign)
            ]
    assert not overridden


def names_said(tree):
    """Return all names and words that a module says."""
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(attr=name) | ast.FunctionDef(name=name) | ast.alias(name=name):
                yield name
            case ast.Name(id=name) | ast.keyword(arg=name):
                yield name
            case ast.Constant(value=str(word)):
                yield word


def test_no_row_is_left_over():
    wrapped = ast.parse((PACKAGE / "upstream.py").read_text(encoding="utf-8"))
    functions = [node for node in wrapped.body if isinstance(node, ast.FunctionDef)]
    said = {name for _, tree in trees() for name in names_said(tree)}
    said |= {name for function in functions for name in names_said(function)}
    # MLflow's names of what the package knows by its value.
    said |= {"MLFLOW_PARENT_RUN_ID", "MAX_METRICS_PER_BATCH", "MAX_PARAMS_TAGS_PER_BATCH"}
    rewrites = {v: name for name, v in vars(upstream).items() if isinstance(v, str)}
    left = []
    for row in LEANED_ON:
        rewrite = re.fullmatch(r"optdb\['(\w+)'\]", row.name)
        words = re.findall(r"\w+", row.name.partition("(impl")[0])
        last = rewrites[rewrite[1]] if rewrite else words[-1]
        if last not in said:
            left.append(str(row))
    assert not left


def test_upstream_itself_is_light():
    heavy = ("jax", "mlflow", "matplotlib", "pymc", "pytensor")
    code = f"import sys, pymc_vi_ext.upstream; print([m for m in {heavy} if m in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"
