"""A model in a tracker: its graph, its text and what it has observed."""

from __future__ import annotations

import hashlib
import io

from collections.abc import Mapping, Sequence

import numpy as np
import pymc as pm

from pymc_vi_ext.python_only import building
from pymc_vi_ext.tracking.tracker import RunTracker
from pymc_vi_ext.upstream import find_observations


def report_model(tracker: RunTracker, run_ids: Sequence[str], model: pm.Model, name: str) -> None:
    """Record a model with the first of some runs, and its observed data with all of them.

    The graph is an image where Graphviz is installed, its package and its program ``dot``.

    Parameters
    ----------
    tracker : RunTracker
    run_ids : sequence of str
    model : pymc.Model
    name : str
        Of the model, and of its data.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from pymc_vi_ext import zoo
    >>> from pymc_vi_ext.tracking import open_tracker, report_model
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> tracker = open_tracker(f"jsonl:{folder}/runs")
    >>> run = tracker.begin("demo", ["advi seed 1"], {}).parent
    >>> report_model(tracker, [run], zoo.build("gamma", n=20), "gamma")
    >>> "alpha" in tracker.fetch(run, "model.txt", folder).read_text()
    True
    """
    with building():
        observed = {str(key): np.asarray(data) for key, data in find_observations(model).items()}
        text = model.str_repr()
    first = run_ids[0]
    try:
        tracker.log_image(first, "comparison/model", _graph(model))
    except Exception as error:  # a comparison needs no picture, and Graphviz may not be there
        text += f"\n\nThe graph could not be drawn: {type(error).__name__}: {error}"
    tracker.log_text(first, f"{text}\n", "model.txt")
    if observed:
        for run_id in run_ids:
            tracker.log_data(run_id, name, _digest(observed), observed)


def _graph(model: pm.Model) -> np.ndarray:
    """Return the model's graph as an image."""
    from matplotlib.image import imread

    with building():
        graph = pm.model_to_graphviz(model)
    graph.attr(dpi="110")
    drawn = imread(io.BytesIO(graph.pipe("png")))
    return np.asarray((drawn[..., :3] * 255).round(), np.uint8)


def _digest(data: Mapping[str, np.ndarray]) -> str:
    """Return 16 letters that the same data always give."""
    digest = hashlib.sha256()
    for key, array in sorted(data.items()):
        digest.update(f"{key} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]
