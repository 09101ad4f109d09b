"""Models that variational inference cannot fit are refused in a sentence that names the cause."""

import numpy as np
import pymc as pm
import pytensor
import pytensor.tensor as pt
import pytest

from pymc.variational.opvi import ParametrizationError
from pytensor.graph.basic import Apply
from pytensor.graph.op import Op
from pytensor.tensor.random.basic import NormalRV

import pymc_vi_ext as vix

from pymc_vi_ext.errors import NoGradientError

# PyMC's own Simulator calls its Op as PyTensor will not have it in future.
pytestmark = [
    pytest.mark.filterwarnings("ignore:RandomVariable Ops will stop hiding"),
    pytest.mark.filterwarnings("ignore:Calling a RandomVariable without an explicit rng"),
]


class Likelihood(Op):
    """What a user wraps around a function of their own."""

    def make_node(self, x):
        return Apply(self, [pt.as_tensor(x)], [pt.scalar(dtype=pytensor.config.floatX)])

    def perform(self, node, inputs, outputs):
        outputs[0][0] = np.asarray(-0.5 * inputs[0] ** 2, pytensor.config.floatX)


def black_box():
    with pm.Model() as model:
        x = pm.Normal("x")
        pm.Potential("own", Likelihood()(x))
    return model


def simulator():
    def draw(rng, a, size):
        return rng.normal(a, 1.0, 5)

    with pm.Model() as model:
        a = pm.Normal("a")
        pm.Simulator("own", draw, params=(a,), sum_stat="sort", epsilon=1, observed=np.zeros(5))
    return model


# A direct method, one that makes its start from a mode, and one of each kind of step.
WAYS = [
    *({"method": name} for name in ("advi", "svgd", "bam", "dadvi", "laplace")),
    {"start": "map"},
]


@pytest.mark.parametrize("options", WAYS, ids=str)
@pytest.mark.parametrize("model_of", [black_box, simulator])
def test_no_gradient(model_of, options):
    with pytest.raises(NoGradientError, match=r"of `own` has no gradient.*pm\.sample_smc"):
        vix.fit(10, model=model_of(), progressbar=False, random_seed=1, **options)


def test_sums_of_trees():
    """Pymc-bart writes a log density of zero for a variable whose prior is over trees."""
    trees = type("BART_f", (NormalRV,), {"__module__": "pymc_bart.bart"})
    with pm.Model() as model:
        f = model.register_rv(trees()(0.0, 1.0), "f")
        pm.Normal("y", f, 1.0, observed=0.5)
    for method in ("advi", "svgd", "dadvi"):
        with pytest.raises(ParametrizationError, match=r"f is a BART variable.*pm\.sample"):
            vix.fit(10, method, model, progressbar=False)
    with model:
        own = pm.ADVI()
    with pytest.raises(ParametrizationError, match="BART"):
        vix.fit(10, own, progressbar=False)
