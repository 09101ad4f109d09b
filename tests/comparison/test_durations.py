"""How long runs are expected to take."""

import dataclasses

import pytest

from pymc_vi_ext.comparison.durations import expected_seconds, keep_seconds
from pymc_vi_ext.comparison.processes import Run

CONFIG = {
    "name": "x",
    "model": "gamma",
    "methods": [{"name": "advi"}, {"name": "advi", "n": 50, "label": "short"}, {"name": "laplace"}],
    "reference": None,
}
RUN = Run(CONFIG, "config.yaml", False, 0, 1)


@pytest.fixture
def folders(tmp_path):
    for number, (run, seconds) in enumerate(
        [
            (RUN, 4.0),
            (dataclasses.replace(RUN, seed=2), 6.0),
            (dataclasses.replace(RUN, method=1), 1.0),
        ]
    ):
        (tmp_path / str(number)).mkdir()
        keep_seconds(run, tmp_path / str(number), seconds)
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "seconds.json").write_text("{")
    return sorted(tmp_path.iterdir())


def test_runs_that_are_alike_say_how_long(folders):
    asked = [
        dataclasses.replace(RUN, seed=3),
        dataclasses.replace(RUN, method=1, seed=3),
        # Nothing has run with so many draws: all of its options count.
        dataclasses.replace(RUN, config={**CONFIG, "draws": 7}),
        # And of another n, all of its method on its model.
        dataclasses.replace(RUN, config={**CONFIG, "methods": [{"name": "advi", "n": 9}]}),
    ]
    assert expected_seconds(asked, folders) == [5.0, 1.0, 5.0, 4.0]


def test_what_has_never_run_has_no_seconds(folders):
    other = dataclasses.replace(RUN, config={**CONFIG, "model": "mixture"})
    assert expected_seconds([dataclasses.replace(RUN, method=2), other], folders) == [None, None]
