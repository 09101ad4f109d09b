"""What the package leans on and its dependencies do not promise, in one place.

:data:`LEANED_ON` is the whole list; ``tests/test_upstream.py`` asks of each row whether it is still
there and still does what it is for. Names that a module holds are imported from here, and only
loaded then; attributes with an underscore, and rewrites, are reached through the functions and
constants below.
"""

from __future__ import annotations

import importlib.resources
import importlib.util
import operator
import sys
import threading
import warnings

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from pymc.variational.opvi import Approximation, Group
    from pytensor.compile.sharedvalue import SharedVariable
    from pytensor.graph.basic import Variable

# Rewrites of PyTensor's, which it asks for by name; a name that it does not know it ignores.
CHECK_TO_INFINITY = "local_check_parameter_to_ninf_switch"
REMOVE_CHECK = "local_remove_check_parameter"
RANDOM_IN_PLACE = "random_make_inplace"
LOWER_XTENSOR = "lower_xtensor"
DIAGONAL_PRODUCTS = "dot_diag_to_elemwise"
SELECTION_PRODUCTS = "selection_dot_to_indexing"
SLICES_OF_ONE = "local_dimshuffle_subtensor"

JAX_STATE = "jax_state"
"""Key of the random key in what PyTensor makes of a generator for JAX."""
SOBOL_FILE = "stats/_sobol_direction_numbers.npz"
"""Where SciPy keeps the numbers that Sobol sequences are made of."""
PARENT_RUN_TAG = "mlflow.parentRunId"
"""Tag by which MLflow shows a run inside another."""

_DISPATCH = "pytensor.link.jax.dispatch"
_PATH = "loss on a path gradient"
_PARTS = "the log density's parts, one draw or all"
_MARK = "how an objective says what a step needs"
_PATTERN = "patterns of the engine's rewrites"
_INLINED = "stands for a graph, which the engine writes out before it batches it"

# place -> name there -> what it is for. ``Group().rng`` is an attribute of the instances alone;
# ``optdb[...]`` a rewrite; other names with a dot are attributes of a class.
_TABLE: Mapping[str, Mapping[str, str]] = {
    "arviz_stats.base": {
        "array_stats": "densities, R-hat and effective draws of arrays, without labels",
    },
    "bambi.backend.pymc": {
        "PyMCModel._clean_results": "intercepts of the data, where Bambi centres predictors",
    },
    "jax.random": {
        "wrap_key_data(impl='threefry2x32')": "a generator's 64 bits as the two words of a key",
    },
    "mlflow": {
        "MlflowClient().log_image": "file names of images, by which one is not logged twice",
        "utils.mlflow_tags.MLFLOW_PARENT_RUN_ID": "runs shown inside their comparison",
        "utils.validation.MAX_METRICS_PER_BATCH": "size of the batches that metrics are sent in",
        "utils.validation.MAX_PARAMS_TAGS_PER_BATCH": "size of the batches of params",
    },
    "pymc.backends.arviz": {
        "coords_and_dims_for_inferencedata": "a DataTree with the model's labels",
        "find_constants": "the group constant_data of a DataTree",
        "find_observations": "the group observed_data of a DataTree",
    },
    "pymc.distributions.continuous": {
        "FlatRV": "telling an improper prior, which nothing can be drawn from",
        "HalfFlatRV": "telling an improper prior, which nothing can be drawn from",
    },
    "pymc.data": {
        "MinibatchOp": "telling what draws minibatches, and from what",
    },
    "pymc.progress_bar": {
        "default_progress_theme": "colours of the progress bar",
    },
    "pymc.pytensorf": {
        "collect_default_updates": "next states of a step's random generators",
        "find_rng_nodes": "generators of a compiled function, to be seeded",
        "reseed_rngs": "seeding generators in place",
    },
    "pymc.sampling.jax": {
        "get_jaxified_graph": "constrained values of BlackJAX' draws",
        "get_jaxified_logp": "the log density for BlackJAX",
    },
    "pymc.util": {
        "get_default_varnames": "variables that BlackJAX' draws are returned of",
    },
    "pymc.variational.approximations": {
        "Empirical().histogram": "particles of an approximation",
        "EmpiricalGroup": "telling particles from other groups",
        "FullRankGroup": "telling a Gaussian of full rank from other groups",
        "FullRankGroup().L": "the factor whose diagonal is kept through a softplus",
        "MeanFieldGroup": "telling a Gaussian with a diagonal from other groups",
        "MeanFieldGroup().std": "standard deviations, kept through a softplus",
        "SingleGroupApproximation": "an approximation with the attributes of its one group",
    },
    "pymc.variational.callbacks": {
        "absolute": "distance of parameters, by the name that PyMC gives it",
        "relative": "distance of parameters, by the name that PyMC gives it",
    },
    "pymc.variational.inference": {
        "Inference().hist": "losses of all fits",
        "Inference().objective": "what an inference minimises, for a view or another in its place",
        "State": "what PyMC's refine goes on from",
    },
    "pymc.variational.operators": {
        "KL().beta": "weight of the prior's part of the loss",
        "KSDObjective": "base of the Stein objective",
    },
    "pymc.variational.minibatch_rv": {
        "MinibatchRandomVariable": "total sizes of what is observed in minibatches",
    },
    "pymc.variational.opvi": {
        "Approximation()._cache": "nodes made once, which a view must not share",
        "Approximation.all_histograms": "telling particles from draws",
        "Approximation.any_histograms": "telling particles from draws",
        "Approximation.datalogp": _PARTS,
        "Approximation.datalogp_norm": _PATH,
        "Approximation.get_optimization_replacements": "one draw without a loop, not needed here",
        "Approximation.inputs": "points that draws are put in place of",
        "Approximation.joint_histogram": "particles of all groups",
        "Approximation.logp_norm": _PATH,
        "Approximation.set_size_and_deterministic": "new random numbers for a number of draws",
        "Approximation.single_symbolic_datalogp": _PARTS,
        "Approximation.single_symbolic_varlogp": _PARTS,
        "Approximation.sized_symbolic_datalogp": _PARTS,
        "Approximation.sized_symbolic_logp": _PARTS,
        "Approximation.sized_symbolic_varlogp": _PARTS,
        "Approximation.symbolic_logq": "log q of the draws",
        "Approximation.symbolic_normalizing_constant": "what losses are divided by",
        "Approximation.symbolic_randoms": "draws of each group",
        "Approximation.symbolic_sample_over_posterior": "the loop over draws that batches replace",
        "Approximation.to_flat_input": "a model's graph as one of flat points",
        "Approximation.varlogp": _PARTS,
        "Approximation.varlogp_norm": _PATH,
        "Group()._kwargs": "options of a family, until its construction ends",
        "Group().include_transformed": "whether a result's state has the unconstrained variables",
        "Group().ordering": "columns and shapes of the variables",
        "Group().rng": "draws at the start of a fit, from its seed",
        "Group().shared_params": "parameters of a family, by name",
        "Group().symbolic_initial": "the noise that draws are made of",
        "Group().user_params": "parameters that are the user's own",
        "Group.__init_group__": "construction of a family",
        "Group.__param_spec__": "names and shapes of a family's parameters",
        "Group._check_user_params": "parameters that are the user's own",
        "Group._finalize_init": "end of the construction of a family",
        "Group._new_initial_shape": "noise of a width of its own",
        "Group._prepare_start": "starting means, by name of the variables",
        "Group.group_for_short_name": "families by name",
        "Group.params_dict": "parameters by name",
        "Group.register": "a family by its name in vfam",
        "Group.symbolic_logq_not_scaled": "log q that a family gives",
        "ObjectiveFunction": "base of objectives; its updates are a step",
        "ObjectiveFunction.obj_params": "parameters that a step moves",
        "ObjectiveFunction.test_params": "parameters of a test function",
        "ObjectiveUpdates": "a step as PyMC has it, with its loss",
        "Operator().has_test_function": _MARK,
        "Operator.objective_class": "an objective of the package's own",
        "Operator.require_logq": _MARK,
        "Operator.returns_loss": _MARK,
        "ParametrizationError": "errors of the kind that PyMC's families raise",
        "_known_scan_ignored_inputs": "data of minibatches, which loops over draws are given",
        "node_property": "nodes of a family, made once and kept",
    },
    "pymc.variational.stein": {
        "Stein.approx_symbolic_matrices": "particles of each group",
        "Stein.dlogp": "scores at the particles, normalised",
    },
    "pymc.variational.test_functions": {
        "Kernel": "base of the kernels",
    },
    "pymc.variational.updates": {
        "adam()": "optimizers as partial functions with their rate, for a checkpoint",
        "get_or_compute_grads": "gradients of a loss, or those given",
    },
    "pytensor.compile.mode": {
        "Mode().provided_optimizer": "a mode with more rewrites",
        f"optdb[{CHECK_TO_INFINITY!r}]": "minus infinity outside the support",
        f"optdb[{DIAGONAL_PRODUCTS!r}]": "left out: it searches the graph at every product",
        f"optdb[{LOWER_XTENSOR!r}]": "labelled operations as plain ones, which can be batched",
        f"optdb[{RANDOM_IN_PLACE!r}]": "generators that a step does not copy",
        f"optdb[{REMOVE_CHECK!r}]": "models with check_bounds=False",
        f"optdb[{SELECTION_PRODUCTS!r}]": "left out: it searches the graph at every product",
        f"optdb[{SLICES_OF_ONE!r}]": "left out: of one element read backwards it takes the first",
    },
    "pytensor.compile.ops": {
        "ViewOp": "views, which are left out before a graph is batched",
    },
    "pytensor.compile.rewriting": {
        "inline_ofg_node": "an operation that stands for a graph as that graph",
    },
    "pytensor.compile.sharedvalue": {
        "SharedVariable().container.storage": "telling that a variable was set, and setting it",
        "SharedVariable().default_update": "counters of steps that no optimizer knows of",
    },
    "pytensor.graph.basic": {
        "Variable().tag": "notes on a variable that its copy keeps",
    },
    "pytensor.graph.op": {
        "HasInnerGraph": "telling operations that are graphs themselves",
    },
    "pytensor.graph.rewriting.basic": {
        "dfs_rewriter": "the engine's own rewrites, once over a graph",
    },
    _DISPATCH: {
        "jax_funcify": "operations as functions of JAX",
        "jax_typify": "constants as arrays of JAX, and generators as a dictionary of a key",
    },
    "pytensor.link.utils": {
        "fgraph_to_python": "a graph as a function",
    },
    "pytensor.tensor": {
        "_as_tensor_variable": "a learning rate that is a schedule",
    },
    "pytensor.tensor.basic": {
        "AllocDiag": _INLINED,
        "Split().len_splits": _PATTERN,
        "infer_static_shape": "lengths of loops that their types do not say",
    },
    "pytensor.tensor.blockwise": {
        "Blockwise().core_op": _PATTERN,
        "Blockwise.batch_ndim": _PATTERN,
    },
    "pytensor.tensor.elemwise": {
        "DimShuffle().new_order": _PATTERN,
        "Elemwise().scalar_op": _PATTERN,
    },
    "pytensor.tensor.shape": {
        "Shape_i().i": _PATTERN,
    },
    "pytensor.tensor.special": {
        "LogAddExp": _INLINED,
        "LogSumExp": _INLINED,
        "XLog1PY": _INLINED,
        "XLogY": _INLINED,
    },
    "pytensor.tensor.type": {
        "TensorType.constant_type": "values that give shapes, as constants of a step",
    },
}


@dataclass(frozen=True)
class Upstream:
    """A name that the package leans on.

    Attributes
    ----------
    place : str
        Module.
    name : str
        What it is called there.
    purpose : str
        What the package does with it.
    """

    place: str
    name: str
    purpose: str

    @property
    def package(self) -> str:
        """Package that it belongs to."""
        return self.place.partition(".")[0]

    def __str__(self) -> str:
        return f"{self.place}.{self.name}"

    def find(self) -> Any:
        """Load what a module or a class holds under this name.

        Raises
        ------
        ImportError
            If it is not there, saying what it was for.
        """
        try:
            with warnings.catch_warnings():
                # In notebooks tqdm, behind NumPyro, misses widgets that nothing here needs.
                warnings.filterwarnings("ignore", "IProgress not found")
                with _numpyro_unread() if self.place == _DISPATCH else nullcontext():
                    module = importlib.import_module(self.place)
                return operator.attrgetter(self.name)(module)
        except (ImportError, AttributeError) as error:
            raise ImportError(
                f"The installed {self.package} has no {self}, which pymc_vi_ext needs for this: "
                f"{self.purpose}."
            ) from error


@contextmanager
def _numpyro_unread() -> Generator[None, None, None]:
    """Let an import of NumPyro do nothing for a moment, where it is installed and nobody has it.

    PyTensor's JAX functions ask whether it is there, which costs a fifth of a second, and load what
    two distributions take of it when they are drawn from.
    """
    name = "numpyro"
    alone = threading.active_count() == 1  # another thread would see what is not all of it
    if f"{name}.distributions" in sys.modules or not alone:
        yield
        return
    importlib.import_module("jax")  # which asks for it nowhere, and takes the longest
    # ArviZ leaves a module there that reads NumPyro as soon as it is looked at.
    kept = sys.modules.pop(name, None)
    try:
        if importlib.util.find_spec(name) is not None:
            sys.modules[name] = ModuleType(name)
        yield
    finally:
        sys.modules.pop(name, None)
        if kept is not None:
            sys.modules[name] = kept


LEANED_ON = tuple(
    Upstream(place, name, purpose)
    for place, names in _TABLE.items()
    for name, purpose in names.items()
)
"""Every name that the package leans on."""

_IMPORTABLE = {row.name: row for row in LEANED_ON if row.name.isidentifier()}


def __getattr__(name: str) -> Any:
    if name not in _IMPORTABLE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = found = _IMPORTABLE[name].find()
    return found


def storage(variable: SharedVariable) -> Any:
    """Return the object that holds the value of a shared variable; one that is set has another."""
    return variable.container.storage[0]


def set_storage(variable: SharedVariable, value: Any) -> None:
    """Set a shared variable past ``set_value``, whose check of the type costs more than a copy."""
    variable.container.storage[0] = value


def default_update(variable: SharedVariable) -> Variable | None:
    """Return the value that a shared variable takes by itself after each call, if it does."""
    return getattr(variable, "default_update", None)


def set_default_update(variable: SharedVariable, new: Variable) -> None:
    """Let a shared variable take the value `new` by itself after each call."""
    with warnings.catch_warnings():
        # The one way to have a step counted by optimizers that do not know of it.
        warnings.simplefilter("ignore", DeprecationWarning)
        variable.default_update = new


def cleaned_by_bambi(backend: Any, tree: Any, *options: bool) -> Any:
    """Return draws of a Bambi model as its ``fit`` returns them; options as of Bambi's method."""
    return backend._clean_results(tree, *options)


def share_notes(new: Variable, old: Variable) -> None:
    """Give a variable the name and the notes of the one that it stands for."""
    new.name, new.tag = old.name, old.tag


def note(variable: Variable, name: str, content: Any) -> None:
    """Note something on a variable, which its copies keep."""
    setattr(variable.tag, name, content)


def noted(variable: Variable, name: str) -> Any:
    """Return what was noted on a variable, None if nothing was."""
    return getattr(variable.tag, name, None)


def made_anew(node: Any, inputs: list[Any]) -> list[Variable]:
    """Return the outputs of `node` for other inputs, of the types these give, with its notes."""
    if isinstance(node.op, __getattr__("HasInnerGraph")):
        made = node.clone_with_new_inputs(inputs, strict=False)
    else:
        made = node.op.make_node(*inputs)
    for old, new in zip(node.outputs, made.outputs, strict=True):
        share_notes(new, old)
    return list(made.outputs)


def converts(kind: type) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return a decorator of the function that makes PyTensor's variables of a `kind`."""
    register: Callable[..., Any] = _IMPORTABLE["_as_tensor_variable"].find().register(kind)
    return register


def without_cache(approx: Approximation) -> dict[str, Any]:
    """Return the attributes of an approximation but the nodes that PyMC made for it once.

    Loops over draws are among these nodes.
    """
    return {name: value for name, value in vars(approx).items() if name != "_cache"}


def layout(group: Group) -> dict[str, tuple[slice, tuple[int, ...]]]:
    """Return where the variables of a group are in its flat points, and their shapes.

    By name of the model's value variable, in the group's order.
    """
    return {name: (where, shape) for name, where, shape, _ in group.ordering.values()}


def group_options(group: Group) -> Mapping[str, Any]:
    """Return the keywords that a group under construction was given besides PyMC's."""
    options: Mapping[str, Any] = group._kwargs
    return options


def takes_user_params(group: Group, sizes: Mapping[str, int]) -> bool:
    """Check the user's own parameters and take them over; tell whether there are any.

    Parameters
    ----------
    group : pymc.Group
    sizes : mapping of str to int
        The names in its ``__param_spec__`` besides ``d``.
    """
    return bool(group._check_user_params(spec_kw=sizes))


def end_construction(group: Group) -> None:
    """End the construction of a group that has its parameters."""
    group._finalize_init()


def starting_means(group: Group, start: Any) -> np.ndarray:
    """Return where a group begins, (d,): at `start`, by name of variables, or the initial point."""
    means: np.ndarray = group._prepare_start(start)
    return means


def sobol_direction_numbers(dimension: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the primitive polynomials of a Sobol sequence's axes, and where they begin.

    The table of Joe and Kuo is a file of SciPy's, which lies beside a module that is slow to load.

    Returns
    -------
    polynomials : array of shape (dimension,)
        Coefficients as bits.
    starts : array of shape (dimension, 18)
    """
    file = importlib.resources.files("scipy") / SOBOL_FILE
    with importlib.resources.as_file(file) as path, np.load(path) as table:
        return table["poly"][:dimension], table["vinit"][:dimension]


def image_prefix(key: str, step: int) -> str:
    """Return how the file of an image that MLflow logs begins; a random part follows."""
    return f"images/{key.replace('/', '~')}+step+{step}+"


def one_of(condition: Variable, then: Variable, otherwise: Variable) -> Variable:
    """Return PyTensor's conditional, of which engines compute one side; older ones on JAX both."""
    try:
        place = importlib.import_module("pytensor.conditional")
    except ImportError:
        # Where older versions have it.
        place = importlib.import_module("pytensor.ifelse")
    found: Variable = place.ifelse(condition, then, otherwise)
    return found
