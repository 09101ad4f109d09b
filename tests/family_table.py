"""Every family of the table, small."""

import pymc as pm

from pymc.variational.opvi import Group

from pymc_vi_ext.approximations import FAMILIES, FamilyGroup, OneGroup

D = 3
# Options that show a family whole in three dimensions.
_OPTIONS = {
    "empirical": {"size": 7},
    "low_rank": {"rank": 2},
    "student_t": {"df": 6.0},
    "full_rank_student_t": {"df": 6.0},
    "mixture": {"K": 3},
    "full_rank_mixture": {"K": 2},
    "flow": {"couplings": 2, "width": 4},
}
# The same family in other forms.
_MORE = {
    "flow affine": {"kind": "affine", "couplings": 2, "width": 4},
    "flow planar": {"kind": "planar", "couplings": 2},
}
ALL = {name: _OPTIONS.get(name, {}) for name in FAMILIES} | _MORE
OURS = [name for name in ALL if issubclass(FAMILIES[name.split()[0]], FamilyGroup)]


def normal_model():
    with pm.Model() as model:
        pm.Normal("x", [1.0, -2.0, 0.5], [1.0, 0.5, 2.0], shape=D)
    return model


def build(name, model=None, **options):
    """Return an approximation of one group of the family."""
    model = model or normal_model()
    options = {"vfam": name.split()[0], "random_seed": 4, **ALL[name], **options}
    return OneGroup(Group(model.free_RVs, model=model, **options))
