"""Logistic regression on data that are read from disk: seconds a step, memory, and what comes out.

Writes rows x 20 numbers in single precision (and a byte for the outcome of each row) under a
temporary folder, fits, and deletes them: 84 MB for 10^6 rows, 8.4 GB for 10^8.

- Microseconds a step, of the wall clock and of all cores, of all sizes in one process, in turn;
  beside them ``pm.Minibatch`` of the smallest size, in memory.
- With ``--fits``, of each size, in a process of its own: the largest memory that is not a file's
  (``RssAnon``), and the default rule's result against the best mean field of all rows (Newton's
  method in NumPy, expectations to second order).
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time

from pathlib import Path

import numpy as np
import pymc as pm

import pymc_vi_ext as vix

COLUMNS, BATCH, CHUNK = 20, 1_000, 250_000
STEPS, ROUNDS = 3_000, 3
FIXED = {"convergence": None, "progressbar": False, "random_seed": 1}


def write(folder, rows):
    """Write the data of so many rows, and have the system forget that it has seen them."""
    rng = np.random.default_rng(rows)
    w = rng.normal(0, 0.5, COLUMNS)
    X = np.lib.format.open_memmap(folder / "X.npy", "w+", "float32", (rows, COLUMNS))
    y = np.lib.format.open_memmap(folder / "y.npy", "w+", "int8", (rows,))
    for start in range(0, rows, CHUNK):
        part = rng.standard_normal((min(CHUNK, rows - start), COLUMNS), dtype="float32")
        X[start : start + CHUNK] = part
        y[start : start + CHUNK] = rng.random(len(part)) < 1 / (1 + np.exp(-part @ w))
    for array, name in ((X, "X.npy"), (y, "y.npy")):
        array.flush()
        with (folder / name).open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read(folder):
    """Return the arrays, on disk."""
    return {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("X", "y")}


def model_of(X, y, **observed):
    """Return the regression on what stands for the rows."""
    with pm.Model() as model:
        w = pm.Normal("w", 0.0, 1.0, shape=COLUMNS)
        pm.Bernoulli("y", logit_p=X @ w, observed=y, **observed)
    return model


def streamed(folder):
    """Return the regression on batches that are read."""
    batches = vix.data.Batches(read(folder), batch_size=BATCH)
    return model_of(batches["X"], batches["y"], total_size=batches.total_size)


def in_memory(folder):
    """Return the regression on batches that are drawn in memory."""
    X, y = (np.array(values) for values in read(folder).values())
    # PyMC casts others, and takes no cast of a minibatch.
    y = y.astype("int32")
    xs, ys = pm.Minibatch(X, y, batch_size=BATCH)
    return model_of(xs, ys, total_size=len(y))


def microseconds_a_step(methods):
    """Return the least of some rounds through all methods: of the wall clock, of all cores."""
    for method in methods.values():
        method.fit(100, **FIXED)
    taken = {name: [] for name in methods}
    for _ in range(ROUNDS):
        for name, method in methods.items():
            started = np.array([time.perf_counter(), time.process_time()])
            method.fit(STEPS, **FIXED)
            ended = np.array([time.perf_counter(), time.process_time()])
            taken[name].append((ended - started) / STEPS * 1e6)
    return {name: np.min(all_of_it, axis=0) for name, all_of_it in taken.items()}


def own_memory():
    """Return the memory of this process that is no file's, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    [kilobytes] = [line.split()[1] for line in lines if line.startswith("RssAnon")]
    return int(kilobytes) * 1024


def largest_memory(work):
    """Return what `work` returns, and the largest memory while it ran."""
    seen, done = [own_memory()], threading.Event()

    def watch():
        while not done.wait(0.02):
            seen.append(own_memory())

    watcher = threading.Thread(target=watch)
    watcher.start()
    result = work()
    done.set()
    watcher.join()
    return result, max(seen)


def best_mean_field(X, y):
    """Return means and sds of the best mean field over all rows, expectations to second order."""
    w, sds = np.zeros(COLUMNS), np.zeros(COLUMNS)
    for _ in range(7):
        gradient, precision = -w, np.eye(COLUMNS)
        for start in range(0, len(y), CHUNK):
            part = np.asarray(X[start : start + CHUNK], dtype=float)
            p = 1 / (1 + np.exp(-part @ w))
            slope = p * (1 - p)
            expected = p + slope * (1 - 2 * p) * (part**2 @ sds**2) / 2
            gradient = gradient + part.T @ (y[start : start + CHUNK] - expected)
            precision = precision + part.T @ (part * slope[:, None])
        w, sds = w + np.linalg.solve(precision, gradient), np.diag(precision) ** -0.5
    return w, sds


def judge(folder):
    """Print what the default rule makes of the data, as JSON."""
    model = streamed(folder)
    started = time.perf_counter()
    approx, memory = largest_memory(
        lambda: vix.fit(2_000_000, model=model, random_seed=1, progressbar=False)
    )
    seconds = time.perf_counter() - started
    means, sds = best_mean_field(**read(folder))
    found = {
        "memory_MB": memory / 1e6,
        "seconds": seconds,
        "steps": approx.report.steps,
        "ended": approx.report.stop_reason.value,
        "mean_off_by_sds": float(np.abs((approx.mean.eval() - means) / sds).max()),
        "sd_off_by": float(np.abs(approx.std.eval() / sds - 1).max()),
        "evidence": approx.report.evidence,
    }
    print(json.dumps(found))


def main():
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=float, nargs="+", default=[1e5, 1e6, 1e7])
    parser.add_argument("--folder", help="where the data are written; by default a temporary one")
    parser.add_argument("--fits", action="store_true", help="fit each size by the default rule")
    parser.add_argument("--judge", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.judge:
        judge(given.judge)
        return
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        places = {int(rows): Path(folder) / f"{int(rows)}" for rows in given.rows}
        for rows, place in places.items():
            place.mkdir()
            write(place, rows)
            print(f"{rows:,} rows: {sum(f.stat().st_size for f in place.iterdir()) / 1e6:,.0f} MB")
        smallest = places[min(places)]
        models = {f"{rows:,}": streamed(place) for rows, place in places.items()}
        models["pm.Minibatch in memory"] = in_memory(smallest)
        steps = microseconds_a_step({name: vix.ADVI(model=m) for name, m in models.items()})
        for name, (wall, of_cores) in steps.items():
            print(f"{name}: {wall:.0f} us a step, {of_cores:.0f} of all cores", flush=True)
        for rows, place in places.items() if given.fits else ():
            command = [sys.executable, "-W", "ignore", __file__, "--judge", str(place)]
            said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            print(f"{rows:,}: {said.splitlines()[-1]}", flush=True)


if __name__ == "__main__":
    main()
