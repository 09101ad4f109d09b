"""Judge the default stopping rule, and PyMC's, by what they leave undone.

Run as ``python tests/benchmarks/stopping.py --out DIR``. Every model has a known optimum of the
family: from a long polish on fixed draws. The yardstick of speed is hindsight: the fewest steps
with which Adam at any one fixed rate comes within .1 nat of it. ``POSTERIORDB`` names the folder
of the reference posteriors; without it their rows are left out.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import time
import warnings

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pymc as pm

from scipy.optimize import minimize

import pymc_vi_ext as vix

from pymc_vi_ext.callbacks import CheckParametersConvergence
from pymc_vi_ext.comparison._jax_density import jax_density
from pymc_vi_ext.zoo.posteriordb.eight_schools import eight_schools_noncentered

jax.config.update("jax_enable_x64", True)

METHODS = ("advi", "fullrank_advi")
# Full rank has d (d + 1) / 2 parameters for its covariance.
LARGEST_FULL_RANK = 60
RATES = (0.1, 0.03, 0.01, 0.003, 0.001, 0.0003)
WITHIN, FALSE_STOP = 0.1, 0.5  # nats
OPTIMUM_DRAWS = 2_000


@dataclass
class Fit:
    """One fit of one rule."""

    seed: int
    steps: int
    short: float
    seconds: float
    stopped: bool
    # Nats short of the optimum that L-BFGS finds from the result itself: what differs from
    # `short` is the distance between two optima, which no stopping rule can see.
    own_short: float = np.nan


@dataclass
class Case:
    """One model with one family, and what each rule did with it."""

    model: str
    method: str
    dimension: int
    elbo: float
    fewest: int | None
    fits: dict[str, list[Fit]] = field(default_factory=dict)


def conjugate() -> pm.Model:
    """E1: a normal mean, 10 observations."""
    with pm.Model() as model:
        mu = pm.Normal("mu", 0.0, 1.0)
        pm.Normal("y", mu, 1.0, observed=np.random.default_rng(0).normal(0.5, 1.0, 10))
    return model


def correlated() -> pm.Model:
    """E2: two variables of correlation .8."""
    with pm.Model() as model:
        pm.MvNormal("x", np.zeros(2), np.array([[1.0, 0.8], [0.8, 1.0]]))
    return model


def eight_schools() -> pm.Model:
    """Eight schools, non-centered."""
    effects = [28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0]
    errors = [15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0]
    return eight_schools_noncentered({"J": 8, "y": effects, "sigma": errors})


def raw_regression() -> pm.Model:
    """One predictor near 100 on its raw scale, flat priors."""
    rng = np.random.default_rng(2)
    x = rng.normal(100.0, 10.0, 200)
    with pm.Model() as model:
        a, b = pm.Flat("a"), pm.Flat("b")
        sigma = pm.HalfNormal("sigma", 10.0)
        pm.Normal("y", a + b * x, sigma, observed=3.0 + 0.5 * x + rng.normal(0.0, 2.0, 200))
    return model


def models() -> dict[str, Callable[[], pm.Model]]:
    """Return the models by name."""
    zoo = vix.zoo
    found: dict[str, Callable[[], pm.Model]] = {
        "E1": conjugate,
        "E2": correlated,
        "gamma": zoo.MODELS["gamma"],
        "mixture": zoo.MODELS["mixture"],
        "eight schools": eight_schools,
        "hierarchical": zoo.MODELS["hierarchical"],
        "logistic": lambda: zoo.build("logistic", n=500, k=10),
        "raw regression": raw_regression,
    }
    if os.environ.get("POSTERIORDB"):
        for name in zoo.posteriordb.POSTERIORS:
            if name == "eight_schools-eight_schools_noncentered":
                continue  # one of the six models above
            found[name] = lambda name=name: zoo.posteriordb.build(name)
    return found


class Family:
    """The ELBO of a Gaussian family on fixed draws, in JAX.

    Parameters are means, and logarithms of standard deviations or the packed factor.
    """

    def __init__(self, model: pm.Model, method: str, draws: int = OPTIMUM_DRAWS):
        self.density = jax_density(model)
        self.d = self.density.start.size
        self.full = method == "fullrank_advi"
        # What an optimum on fixed draws gains over the true one, it loses on others: results are
        # compared on draws that nothing was fitted to.
        self.draws, self.others = (self._antithetic(seed, draws) for seed in (123, 321))
        self.rows = np.tril_indices(self.d)
        self._value = jax.jit(self._elbo)
        self._gradient = jax.jit(jax.value_and_grad(lambda p, draws: -self._elbo(p, draws)))

    def swap(self) -> None:
        """Take the other draws for fitting."""
        self.draws, self.others = self.others, self.draws

    def elbo(self, p: Any) -> Any:
        """Return the ELBO on draws that nothing was fitted to."""
        return self._value(p, self.others)

    def negative(self, p: Any) -> Any:
        """Return the negative ELBO on the draws for fitting, and its gradient."""
        return self._gradient(p, self.draws)

    def _antithetic(self, seed: int, draws: int) -> Any:
        half = np.random.default_rng(seed).normal(size=(draws // 2, self.d))
        return jnp.asarray(np.concatenate([half, -half]) / half.std(axis=0))

    @property
    def start(self) -> np.ndarray:
        """PyMC's start: the initial point, and standard deviations log 2 or factor I."""
        if self.full:
            return np.concatenate([self.density.start, np.eye(self.d)[self.rows]])
        return np.concatenate([self.density.start, np.full(self.d, np.log(np.log(2.0)))])

    def factor(self, p: Any) -> Any:
        """Return the standard deviations (d,) or the factor (d, d)."""
        if not self.full:
            return jnp.exp(p[self.d :])
        return jnp.zeros((self.d, self.d)).at[self.rows].set(p[self.d :])

    def one(self, p: Any, draw: Any) -> Any:
        """Return log p(z) + log |factor| at one draw."""
        factor = self.factor(p)
        z = p[: self.d] + (factor @ draw if self.full else factor * draw)
        scales = jnp.abs(jnp.diag(factor)) if self.full else factor
        return self.density.logp(z, (), self.density.data) + jnp.sum(jnp.log(scales))

    def _elbo(self, p: Any, draws: Any) -> Any:
        values = jax.lax.map(lambda draw: self.one(p, draw), draws, batch_size=200)
        return jnp.mean(values) + 0.5 * self.d * np.log(2 * np.pi * np.e)

    def of(self, approx: Any) -> float:
        """Return the ELBO of a fitted approximation."""
        mean = approx.mean.eval()
        if self.full:
            rest = approx.groups[0].L.eval()[self.rows]
        else:
            rest = np.log(approx.std.eval())
        return float(self.elbo(jnp.concatenate([mean, rest])))


def adam(family: Family) -> Callable[..., Any]:
    """Return ``run(carry, rate, steps)``: plain Adam, one draw a step."""

    def step(_: Any, carry: Any, rate: Any) -> Any:
        p, m, v, t, key = carry
        key, own = jax.random.split(key)
        draw = jax.random.normal(own, (family.d,))
        gradient = -jax.grad(family.one)(p, draw)
        gradient = jnp.where(jnp.isfinite(gradient).all(), gradient, 0.0)
        t, m, v = t + 1, 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
        p = p - rate * m / (1 - 0.9**t) / (jnp.sqrt(v / (1 - 0.999**t)) + 1e-8)
        return p, m, v, t, key

    @jax.jit
    def run(carry: Any, rate: Any, steps: Any) -> Any:
        return jax.lax.fori_loop(0, steps, lambda i, c: step(i, c, rate), carry)

    return run


def begin(start: np.ndarray, seed: int) -> tuple:
    """Return Adam's first carry."""
    zeros = jnp.zeros(len(start))
    return jnp.asarray(start), zeros, zeros, 0.0, jax.random.key(seed)


def polished(family: Family, start: np.ndarray, seconds: float) -> np.ndarray:
    """Return what L-BFGS finds from `start` on fixed draws."""
    negative = family.negative
    until = time.perf_counter() + seconds
    best = (np.inf, start)

    def objective(p: np.ndarray) -> tuple[float, np.ndarray]:
        if time.perf_counter() > until:
            raise StopIteration
        nonlocal best
        value, gradient = negative(jnp.asarray(p))
        if np.isfinite(value) and value < best[0]:
            best = (float(value), np.array(p))
        return float(value), np.asarray(gradient, dtype=float)

    # StopIteration: the time is over.
    with contextlib.suppress(StopIteration):
        minimize(
            objective,
            start,
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": 5_000, "maxfun": 8_000, "ftol": 1e-13, "gtol": 1e-7},
        )
    return best[1]


def highest(family: Family, start: np.ndarray, seconds: float) -> float:
    """Return the ELBO of what L-BFGS finds from `start`."""
    found = float(family.elbo(jnp.asarray(polished(family, start, seconds))))
    return found if np.isfinite(found) else -np.inf


def hindsight(family: Family, best: float, cap: int, seconds: float) -> int | None:
    """Return the fewest steps of fixed-rate Adam to within .1 nat: median of two seeds."""
    run = adam(family)
    until = time.perf_counter() + seconds
    fewest: list[float] = []
    for rate in RATES:
        reached: list[float] = []
        for seed in (0, 1):
            carry, used = begin(family.start, seed), 0
            while used < cap and time.perf_counter() < until:
                more = max(10, used // 20)
                carry, used = run(carry, rate, more), used + more
                if best - float(family.elbo(carry[0])) < WITHIN:
                    reached.append(used)
                    break
        if len(reached) == 2:
            fewest.append(float(np.median(reached)))
    return int(min(fewest)) if fewest else None


def packed(approx: Any, family: Family) -> np.ndarray:
    """Return the parameters of a fit as `family` has them."""
    if family.full:
        return np.concatenate([approx.mean.eval(), approx.groups[0].L.eval()[family.rows]])
    return np.concatenate([approx.mean.eval(), np.log(approx.std.eval())])


def ours(model: pm.Model, method: str, seed: int, cap: int) -> Any:
    """Return the default fit."""
    return vix.fit(cap, method, model, random_seed=seed, progressbar=False)


def several(model: pm.Model, method: str, seed: int, cap: int) -> Any:
    """Return the default fit from eight starts."""
    return vix.fit(cap, method, model, random_seed=seed, progressbar=False, n_starts=8)


def pymc_rule(diff: str) -> Callable[..., Any]:
    """Return PyMC's defaults with its convergence check, run by this package's engine."""

    def fit(model: pm.Model, method: str, seed: int, cap: int) -> Any:
        classes = {"advi": pm.ADVI, "fullrank_advi": pm.FullRankADVI}
        check = CheckParametersConvergence(diff=diff)
        return vix.fit(
            cap,
            classes[method](model=model, random_seed=seed),
            convergence=None,
            callbacks=[check],
            obj_optimizer=pm.adagrad_window(learning_rate=0.001),
            progressbar=False,
        )

    return fit


RULES: Mapping[str, Callable[..., Any]] = {
    "default": ours,
    "pymc relative": pymc_rule("relative"),
    "pymc absolute": pymc_rule("absolute"),
}


def judge(
    name: str, make: Callable[[], pm.Model], method: str, arguments: argparse.Namespace
) -> Case | None:
    """Run every rule on one model with one family."""
    model = make()
    family = Family(model, method)
    if family.full and family.d > LARGEST_FULL_RANK:
        return None
    rules = {rule: run for rule, run in RULES.items() if rule in arguments.rules}
    if name == "mixture":
        rules["default, 8 starts"] = several
    case = Case(name, method, family.d, -np.inf, None)
    results: list[tuple[str, int, Any, float]] = []
    for rule, run in rules.items():
        for seed in range(arguments.seeds if rule.startswith("default") else arguments.pymc_seeds):
            started = time.perf_counter()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    approx = run(model, method, seed, arguments.cap)
                except FloatingPointError as error:
                    approx = error.approx  # type: ignore[attr-defined]
            seconds = time.perf_counter() - started
            report = approx.report
            results.append((rule, seed, packed(approx, family), seconds))
            fit = Fit(seed, report.steps, np.nan, seconds, report.converged)
            case.fits.setdefault(rule, []).append(fit)
    elbos = [float(family.elbo(jnp.asarray(p))) for _, _, p, _ in results]
    elbos = [value if np.isfinite(value) else -np.inf for value in elbos]
    best = results[int(np.argmax(elbos))][2]
    case.elbo = max(highest(family, best, arguments.polish), *elbos)
    for (rule, seed, p, _), value in zip(results, elbos, strict=True):
        fit = next(f for f in case.fits[rule] if f.seed == seed)
        fit.short = fit.own_short = case.elbo - value
        if fit.stopped and np.isfinite(value) and fit.short > WITHIN:
            own = max(highest(family, p, arguments.polish), value)
            fit.own_short = min(own, case.elbo) - value
    if arguments.hindsight:
        case.fewest = hindsight(family, case.elbo, arguments.cap, arguments.hindsight)
    return case


def elsewhere(fit: Fit) -> bool:
    """Tell whether a fit stopped at an optimum, and not at the best one."""
    return fit.stopped and fit.own_short < WITHIN < fit.short


def false_stop(fit: Fit) -> bool:
    """Tell whether a fit stopped where its own optimum was far still."""
    return fit.stopped and fit.own_short > FALSE_STOP


def as_markdown(cases: list[Case]) -> str:
    """Return the tables."""
    lines = [
        "# Stopping rules on real fits",
        "",
        "Short: what the result's ELBO lacks to the family's optimum, in nats, seed by seed. "
        f"False stops: stopped more than {FALSE_STOP} nat short of the optimum that L-BFGS finds "
        "from the result; other optimum: within .1 nat of that one, and not of the best. Steps: "
        "median; over: divided by "
        "the fewest steps with which Adam at any one fixed rate comes within .1 nat (- where "
        "none does, or none did in the time for it). The optimum is the best of all results and "
        "of what L-BFGS finds on 2,000 fixed draws, compared on 2,000 others.",
        "",
        "| model | family | d | rule | short | within .1 | other optimum | false stops "
        "| never stopped | steps | over | s |",
        "|---|---|--:|---|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for case in cases:
        for rule, fits in case.fits.items():
            short = [f.short for f in fits]
            steps = float(np.median([f.steps for f in fits]))
            lines.append(
                f"| {case.model} | {'full rank' if 'full' in case.method else 'mean field'} "
                f"| {case.dimension} | {rule} | {' '.join(f'{s:.3f}' for s in short)} "
                f"| {sum(s < WITHIN for s in short)}/{len(fits)} "
                f"| {sum(map(elsewhere, fits))} | {sum(map(false_stop, fits))} "
                f"| {sum(not f.stopped for f in fits)} | {steps:,.0f} "
                f"| {steps / case.fewest if case.fewest else float('nan'):.2g} "
                f"| {np.median([f.seconds for f in fits]):.2g} |".replace("| nan |", "| - |")
            )
    lines += ["", "## In all", ""]
    for rule in dict.fromkeys(rule for case in cases for rule in case.fits):
        pairs = [(c, f) for c in cases for f in c.fits.get(rule, [])]
        over = [
            float(np.median([f.steps for f in c.fits[rule]])) / c.fewest
            for c in cases
            if rule in c.fits and c.fewest
        ]
        false = sum(false_stop(f) for _, f in pairs)
        other = sum(elsewhere(f) for _, f in pairs)
        within = sum(f.short < WITHIN for _, f in pairs)
        lines.append(
            f"- {rule}: {false} false stops in {len(pairs)} fits ({false / len(pairs):.1%}), "
            f"{within} within .1 nat ({within / (len(pairs) - other):.1%} of those in the best "
            f"optimum), {other} in another optimum, "
            f"{sum(not f.stopped for _, f in pairs)} never stopped; steps over the fewest: median "
            f"{np.median(over) if over else float('nan'):.2g}, largest "
            f"{max(over, default=float('nan')):.2g} ({len(over)} cases)."
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, and write ``stopping.md`` and ``.json`` after every case."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=Path())
    parser.add_argument("--models", nargs="+", help="all if not given")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--rules", nargs="+", choices=list(RULES), default=list(RULES))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--pymc-seeds", type=int, default=1, help="for PyMC's rules, slow fits")
    parser.add_argument("--cap", type=int, default=100_000, help="most steps of a fit")
    parser.add_argument("--polish", type=float, default=60.0, help="seconds for an optimum")
    parser.add_argument("--hindsight", type=float, default=60.0, help="seconds; 0 leaves it out")
    parser.add_argument("--keep", action="store_true", help="cases measured before stay")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    numbers = arguments.out / "stopping.json"
    done: dict[tuple[str, str], Case] = {}
    if arguments.keep and numbers.exists():
        for entry in json.loads(numbers.read_text()):
            fits = {rule: [Fit(**f) for f in fits] for rule, fits in entry.pop("fits").items()}
            case = Case(**entry, fits=fits)
            done[case.model, case.method] = case
    for name, make in models().items():
        if arguments.models and name not in arguments.models:
            continue
        for method in arguments.methods:
            if (name, method) in done and arguments.keep:
                continue
            case = judge(name, make, method, arguments)
            if case is None:
                continue
            done[name, method] = case
            cases = list(done.values())
            numbers.write_text(json.dumps([asdict(c) for c in cases], indent=1) + "\n")
            (arguments.out / "stopping.md").write_text(as_markdown(cases))
            for rule, fits in case.fits.items():
                print(
                    name,
                    method,
                    rule,
                    "fewest",
                    case.fewest,
                    [(f.steps, round(f.short, 3), round(f.seconds, 1)) for f in fits],
                    flush=True,
                )


if __name__ == "__main__":
    main()
