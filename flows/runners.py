"""Where the runs of a comparison take place: here, or on a cluster."""

from __future__ import annotations

import os

from enum import StrEnum
from typing import Any


class Runner(StrEnum):
    """How runs follow each other; each is a process of its own, whose task waits for it."""

    SEQUENTIAL = "sequential"
    PROCESS = "process"
    DASK = "dask"
    RAY = "ray"


def runner_of(runner: Runner, address: str | None = None) -> Any:
    """Return Prefect's task runner.

    Parameters
    ----------
    runner : Runner
    address : str, optional
        Of a cluster of Dask's or Ray's; by default they run on the cores of this machine.

    Raises
    ------
    ImportError
        Without prefect-dask or prefect-ray.
    ValueError
        If there is an address and no cluster.
    """
    if runner in (Runner.SEQUENTIAL, Runner.PROCESS):
        from prefect.task_runners import ThreadPoolTaskRunner

        if address:
            raise ValueError(f"--address is of a cluster: --runner dask or ray, not {runner}.")
        workers = 1 if runner is Runner.SEQUENTIAL else os.cpu_count()
        return ThreadPoolTaskRunner(max_workers=workers)
    try:
        return _dask(address) if runner is Runner.DASK else _ray(address)
    except ImportError as error:
        raise ImportError(
            f"--runner {runner} needs prefect-{runner}: pip install 'pymc-vi-ext[clusters]'."
        ) from error


def _dask(address: str | None) -> Any:
    import dask

    from prefect_dask import DaskTaskRunner

    if address:
        return DaskTaskRunner(address=address)
    # Workers that are daemons may not start the processes of runs.
    dask.config.set({"distributed.worker.daemon": False})
    here = {"n_workers": os.cpu_count(), "threads_per_worker": 1, "dashboard_address": None}
    return DaskTaskRunner(cluster_kwargs=here)


def _ray(address: str | None) -> Any:
    from prefect_ray import RayTaskRunner

    if address:
        return RayTaskRunner(address=address)
    return RayTaskRunner(init_kwargs={"include_dashboard": False})
