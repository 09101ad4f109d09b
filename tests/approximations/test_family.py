"""What the package asks of a family, answered by every one, by a new one and for unknown groups."""

from dataclasses import dataclass

import numpy as np
import pymc as pm
import pytensor
import pytensor.tensor as pt
import pytest

from family_table import ALL, OURS, D, build, normal_model
from pymc.variational.approximations import FullRankGroup, MeanFieldGroup
from pymc.variational.operators import KL
from pymc.variational.opvi import Approximation, Group, ParametrizationError, node_property

import pymc_vi_ext as vix

from pymc_vi_ext.approximations import FAMILIES, FamilyGroup, OneGroup, PyMCFamily, family_of
from pymc_vi_ext.approximations.coordinates import Coordinates
from pymc_vi_ext.approximations.gaussians import Dense, LowRank, kind_of
from pymc_vi_ext.approximations.parameters import flat_parameters, moments
from pymc_vi_ext.objectives import PathELBO
from pymc_vi_ext.options import Options, option
from pymc_vi_ext.python_only import python_only

QUIET = {"progressbar": False}
COV = np.array([[1.0, 0.7, 0.2], [0.7, 2.0, -0.3], [0.2, -0.3, 0.5]])
POINT = np.array([3.0, 2.0, 1.0])


def evaluated(nodes, inputs=(), values=()):
    """Evaluate without compiling."""
    with python_only():
        return pm.pytensorf.compile(list(inputs), nodes, mode="FAST_COMPILE")(*values)


def family(name, **options):
    [group] = build(name, **options).groups
    return family_of(group)


def elsewhere(family):
    """Move every parameter to a place where nothing is special."""
    rng = np.random.default_rng(7)
    for parameter in family.pymc_group.params:
        value = parameter.get_value()
        parameter.set_value(value + 0.3 * rng.normal(size=value.shape))
    return family


@pytest.mark.parametrize("name", ALL)
def test_a_family_is_that_of_its_row(name):
    approx = build(name)
    [group] = approx.groups
    found = family_of(group)
    row = FAMILIES[name.split()[0]]
    assert type(found) is row
    assert type(group) is row.group_type()
    assert found.pymc_group is group
    assert found.name == name.split()[0]
    assert set(found.parameter_names) == {p.name for p in approx.params}
    assert (found is group) == (name in OURS)


@pytest.mark.parametrize("name", ALL)
def test_set_to_a_gaussian_a_family_has_its_mean(name):
    options = {"empirical": {"size": 20_000}, "mixture": {"K": 1}, "full_rank_mixture": {"K": 1}}
    found = family(name, **options.get(name, {}))
    found.set_gaussian(POINT, COV)
    error = 0.1 if name == "empirical" else 1e-12
    np.testing.assert_allclose(evaluated(found.pymc_group.mean), POINT, atol=error)


@pytest.mark.parametrize("name", ALL)
def test_placed_at_a_point_a_family_keeps_its_scales(name):
    found = family(name)
    group = found.pymc_group
    before, [mean, std] = flat_parameters(OneGroup(group)), evaluated([group.mean, group.std])
    found.place(POINT)
    if found.stratified:
        np.testing.assert_array_equal(flat_parameters(OneGroup(group)), before)
        mean_then = mean
    else:
        mean_then = POINT
    np.testing.assert_allclose(evaluated(group.mean), mean_then, atol=1e-12)
    np.testing.assert_allclose(evaluated(group.std), std, rtol=1e-12)


@pytest.mark.parametrize("name", ALL)
def test_scattered_the_locations_move_by_normal_draws(name):
    found = family(name)
    group = found.pymc_group
    before = {p: v.get_value() for p, v in group.params_dict.items()}
    found.scatter(np.random.default_rng(5))
    moved = {p for p, v in group.params_dict.items() if (v.get_value() != before[p]).any()}
    # Particles are drawn by their method itself.
    assert moved == ({"mu"} if name != "empirical" else set())
    for p in moved:
        away = np.random.default_rng(5).normal(size=before[p].shape)
        np.testing.assert_allclose(group.params_dict[p].get_value(), before[p] + away)


@pytest.mark.parametrize("name", [name for name in ALL if name != "empirical"])
def test_the_path_gradient_is_the_chain_rule_through_the_draws(name):
    """As functions of the noise alone log q and its path have the same value and gradient."""
    found = elsewhere(family(name))
    assert found.has_path
    group = found.pymc_group
    noise, path = group.symbolic_initial, found.path_logq()
    nodes = [path, group.symbolic_logq]
    nodes += [pt.grad(pt.sum(node), noise) for node in nodes]
    width = D if name not in OURS else group.noise_dim
    values = np.random.default_rng(5).normal(size=(20, width))
    path, logq, path_gradient, gradient = evaluated(nodes, [noise], [values])
    np.testing.assert_allclose(path, logq, rtol=1e-12)
    np.testing.assert_allclose(path_gradient, gradient, rtol=1e-9, atol=1e-10)
    assert abs(gradient).max() > 0.1


@pytest.mark.parametrize("name", ALL)
def test_closed_entropies_are_those_of_gaussians(name):
    found = elsewhere(family(name))
    entropy = found.entropy()
    if name not in ("mean_field", "full_rank"):
        assert entropy is None
        return
    value, cov = evaluated([entropy, found.pymc_group.cov])
    assert value == pytest.approx(0.5 * np.linalg.slogdet(2 * np.pi * np.e * cov)[1], rel=1e-9)


def test_strata_are_a_mixtures_components():
    assert [name for name in ALL if family(name).stratified] == ["mixture", "full_rank_mixture"]
    strata = family("mixture").strata()
    assert strata.K == 3
    np.testing.assert_allclose(evaluated(strata.weights), np.full(3, 1 / 3))


def test_components_are_set_heaviest_first():
    """Two Gaussians for three components: one is shared, beside its centre."""
    for name in ("mixture", "full_rank_mixture"):
        found = family(name, K=3)
        found.set_components([POINT, -POINT], [np.eye(D), COV], np.array([3.0, 1.0]))
        weights = evaluated(found.weights)
        *placed, third = found.params_dict["mu"].get_value()
        np.testing.assert_allclose(placed, [POINT, -POINT])
        # Seven standard deviations lie between the two: the third is beside one of them.
        shared = POINT @ third > 0
        assert np.linalg.norm(third - (POINT if shared else -POINT)) < 4
        by_hand = [0.375, 0.25, 0.375] if shared else [0.75, 0.125, 0.125]
        np.testing.assert_allclose(weights, by_hand)
        if name == "full_rank_mixture":
            np.testing.assert_allclose(evaluated(found.covariances)[1], COV)


def test_kinds_of_gaussians():
    """Read and set to another, a group is that other one."""
    for name, kind in {"full_rank": Dense, "low_rank": LowRank}.items():
        found = elsewhere(family(name))
        group = found.pymc_group
        assert kind_of(group) is kind
        np.testing.assert_allclose(kind.of(group).dense().cov, evaluated(group.cov), rtol=1e-9)
        kept = kind.of(group)
        found.set_gaussian(np.zeros(D), np.eye(D))
        kept.set(group)
        for ours, theirs in zip(kind.of(group), kept, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-9)
    with pytest.raises(TypeError, match=r'MeanFieldGroup is no Gaussian .* use the family "full_'):
        kind_of(family("mean_field").pymc_group)


@pytest.mark.parametrize("name", OURS)
def test_unknown_options_are_refused(name):
    [row] = [FAMILIES[name.split()[0]]]
    known = ", ".join(row.Options.names())
    with pytest.raises(TypeError, match=f"has no option 'rnak': its options are {known}"):
        build(name, rnak=3)
    # PyMC's own are none of the family's.
    build(name, start={"x": np.ones(D)}, options={})


@pytest.mark.parametrize("name", OURS)
def test_options_are_in_the_docstring(name):
    row = FAMILIES[name.split()[0]]
    for option_name in row.Options.names():
        assert f"\n    {option_name} : " in row.__doc__


@dataclass(frozen=True)
class ScaleOptions(Options):
    scale: float = option(1.0, "Standard deviation at the start.", gt=0)


class SharedScale(FamilyGroup[ScaleOptions]):
    """Independent Gaussians of one standard deviation: all that a new family has to say."""

    __param_spec__ = {"mu": ("d",), "log_scale": ("1",)}  # noqa: RUF012, PyMC's own
    short_name = "shared_scale"
    Options = ScaleOptions

    def start_values(self, start, options):
        return {"mu": self._prepare_start(start), "log_scale": np.log([options.scale])}

    @node_property
    def mean(self):
        return self.params_dict["mu"]

    @node_property
    def std(self):
        return pt.exp(self.params_dict["log_scale"][0]) * pt.ones(self.ddim)

    @node_property
    def symbolic_random(self):
        return self.mean + self.std * self.symbolic_initial

    def log_density(self, z, parameters):
        log_scale = parameters["log_scale"][0]
        standard = (z - parameters["mu"]) / pt.exp(log_scale)
        return -0.5 * pt.sum(standard**2 + np.log(2 * np.pi) + 2 * log_scale, axis=1)

    def gaussian_values(self, mean, cov):
        return {"mu": mean, "log_scale": -0.5 * np.log([np.diag(np.linalg.inv(cov)).mean()])}

    def moments(self, values):
        return values["mu"], values["log_scale"] + np.zeros_like(values["mu"])


@pytest.fixture
def shared_scale(monkeypatch):
    monkeypatch.setitem(FAMILIES, "shared_scale", SharedScale)


@pytest.mark.usefixtures("shared_scale")
def test_a_new_family_fits_after_one_row():
    with pm.Model() as model:
        pm.Normal("x", [1.0, -2.0, 0.5], 2.0, shape=3)
        pm.Normal("z", 4.0, 0.5)
    options = {"model": model, "random_seed": 1, **QUIET}
    groups = {"shared_scale": ["x"], "mean_field": ["z"]}
    approx = vix.fit(groups=groups, **options)
    assert approx.report.converged
    shared = approx.groups[0]
    assert type(shared) is SharedScale
    np.testing.assert_allclose(shared.params_dict["mu"].get_value(), [1.0, -2.0, 0.5], atol=0.15)
    np.testing.assert_allclose(np.exp(shared.params_dict["log_scale"].get_value()), 2.0, rtol=0.05)
    started = vix.fit(0, groups=groups, start="laplace", convergence=None, **options)
    log_scale = started.groups[0].params_dict["log_scale"].get_value()
    np.testing.assert_allclose(np.exp(log_scale), 2.0, rtol=1e-5)
    several = vix.fit(200, groups=groups, n_starts=2, convergence=None, **options)
    assert len(several.report.starts) == 2


@pytest.mark.usefixtures("shared_scale")
def test_a_new_family_has_options_a_path_and_moments():
    with pm.Model() as model:
        pm.Normal("x", POINT, 2.0, shape=D)
        group = pm.Group(model.free_RVs, vfam="shared_scale", scale=3.0)
    approx = OneGroup(group)
    means, log_sds = moments(approx, flat_parameters(approx))
    np.testing.assert_allclose(means, POINT)
    np.testing.assert_allclose(np.exp(log_sds), 3.0)
    with pytest.raises(ParametrizationError, match="`scale` must be above 0"):
        pm.Group(model.free_RVs, vfam="shared_scale", scale=0.0, model=model)
    with pytest.raises(TypeError, match="no option 'rank': its options are scale"):
        pm.Group(model.free_RVs, vfam="shared_scale", rank=1, model=model)
    # At the posterior its path gradient has no noise: log Z = 0 at every draw.
    family_of(group).set_gaussian(POINT, 4 * np.eye(D))
    loss = PathELBO(approx)(None)(3)
    for value in evaluated([loss, *pt.grad(loss, approx.params)]):
        np.testing.assert_allclose(value, 0.0, atol=1e-7)


@pytest.mark.usefixtures("shared_scale")
def test_families_that_groups_know_are_those_of_the_table():
    with pytest.raises(ValueError, match="There is no family 'fullest'") as error:
        vix.fit(10, model=normal_model(), groups={"fullest": ["x"]}, **QUIET)
    known = [name for name in FAMILIES if name != "empirical"]
    assert str(error.value).endswith(f"knows {', '.join(known)}.")
    assert "shared_scale" in known


def test_rows_with_a_wrong_or_taken_name():
    with pytest.raises(ValueError, match="has the `short_name` 'shared_scale', and the table"):
        FAMILIES["one_scale"] = SharedScale

    class Double(SharedScale):
        short_name = "full_rank"

    with pytest.raises(ValueError, match="group named 'full_rank' already, FullRankGroup"):
        FAMILIES["full_rank"] = Double
    assert "one_scale" not in FAMILIES
    assert FAMILIES["full_rank"].group_type() is FullRankGroup


class Narrow(MeanFieldGroup):
    """Nothing tells the package that its draws are still its parent's."""


class Weighted(Group):
    """A group of parameters whose names say nothing."""

    __param_spec__ = {"w": ("d",)}  # noqa: RUF012, PyMC's own
    short_name = "weighted"

    def __init_group__(self, group):
        super().__init_group__(group)
        self.shared_params = {"w": pytensor.shared(np.zeros(self.ddim), "w")}
        self._finalize_init()


def test_an_unknown_group_is_known_by_its_parameters():
    model = normal_model()
    group = Narrow(model.free_RVs, model=model, random_seed=1)
    approx, found = OneGroup(group), family_of(group)
    assert type(found) is PyMCFamily
    assert (found.has_path, found.stratified, found.entropy()) == (False, False, None)
    [coordinates] = found.coordinates()
    assert type(coordinates) is Coordinates
    assert found.path_logq() is group.symbolic_logq
    found.place(POINT)
    means, log_sds = moments(approx, flat_parameters(approx))
    np.testing.assert_allclose(means, POINT)
    np.testing.assert_allclose(np.exp(log_sds), np.log(2.0))
    # The objective takes PyMC's gradient for it, on the same draws.
    noise = pt.constant(np.random.default_rng(2).normal(size=(2, D)))
    same = {"more_replacements": {group.symbolic_initial: noise}}
    losses = [operator(approx)(None)(2, **same) for operator in (PathELBO, KL)]
    ours, theirs = (pt.grad(loss, approx.params) for loss in losses)
    for one, other in zip(evaluated(ours), evaluated(theirs), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9)
    with pytest.raises(NotImplementedError, match="Narrow cannot start from a Gaussian"):
        found.set_gaussian(POINT, COV)


def test_a_group_of_unknown_parameters_says_what_is_missing():
    model = normal_model()
    found = family_of(Weighted(model.free_RVs, model=model))
    with pytest.raises(NotImplementedError, match=r"none of its parameters \(w\) is known"):
        found.place(POINT)
    with pytest.raises(TypeError, match="Weighted has the parameters w: means and standard"):
        found.moments({"w": np.zeros(D)})


def test_parameters_that_are_expressions_cannot_be_set():
    model = normal_model()
    params = {"mu": pt.ones(D), "rho": pt.zeros(D), "W": pt.ones((D, 1))}
    group = Group(model.free_RVs, params=params, model=model)
    with pytest.raises(TypeError, match="`mu` of LowRankGroup is an expression of your own"):
        family_of(group).set_gaussian(POINT, COV)


def test_a_mixture_beside_another_family_is_stratified():
    """The other group's draws are the same in each component; by hand on the same noise."""
    with pm.Model() as model:
        x, z = pm.Normal("x"), pm.Normal("z", 1.0, 2.0)
        both = [Group([x], vfam="mean_field"), Group([z], vfam="mixture", K=2, random_seed=1)]
        approx = Approximation(both, model=model)
    other, mixture = approx.groups
    rng = np.random.default_rng(1)
    noise = {other: rng.normal(size=(4, 1)), mixture: rng.normal(size=(4, 2))}
    replaced = {group.symbolic_initial: pt.constant(noise[group]) for group in noise}
    loss = float(evaluated(PathELBO(approx)(None)(4, more_replacements=replaced)))
    sd = np.log(2.0)

    def normal(value, mean, scale):
        return -0.5 * ((value - mean) / scale) ** 2 - np.log(scale * np.sqrt(2 * np.pi))

    first = sd * noise[other][:, 0]
    expected = np.mean(normal(first, 0.0, sd) - normal(first, 0.0, 1.0))
    means = mixture.params_dict["mu"].get_value()[:, 0]
    for mean in means:
        second = mean + sd * noise[mixture][:, 1]
        logq = np.log(np.mean([np.exp(normal(second, m, sd)) for m in means], axis=0))
        expected += 0.5 * np.mean(logq - normal(second, 1.0, 2.0))
    assert loss == pytest.approx(expected, rel=1e-7)
