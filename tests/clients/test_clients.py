"""Models of other libraries: fitted, held against NUTS, and given back to the library."""

import pytest

from clients.comparing import compared
from clients.models import CLIENTS

pytest.importorskip("hssm", reason="`make test-clients` has an environment for these")


@pytest.mark.filterwarnings("ignore")  # those of the libraries
@pytest.mark.parametrize("name", CLIENTS)
def test_client(name, tmp_path):
    row = compared(CLIENTS[name](), tmp_path)
    print(f"\n{name}: {row}")
    assert row.agrees or row.flagged, row
    # What is predicted averages over parameters: it agrees even where some of these do not.
    assert row.worst_use < 0.2, row


@pytest.mark.filterwarnings("ignore")
def test_trees_are_refused():
    import numpy as np
    import pymc as pm
    import pymc_bart

    import pymc_vi_ext as vix

    x = np.linspace(0, 1, 30)[:, None]
    with pm.Model() as model:
        mu = pymc_bart.BART("mu", x, x.ravel(), m=10)
        pm.Normal("y", mu, 1.0, observed=x.ravel())
    with pytest.raises(ValueError, match=r"mu is a BART variable.*Use pm\.sample"):
        vix.fit(model=model)
