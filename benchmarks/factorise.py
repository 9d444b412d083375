"""Time, memory and result of the fit on a generated log: in one process, and on Ray.

    python -m benchmarks.factorise [--users 200000] [--sweeps 8] [--workers 0 1 2]

Workers 0 is without Ray. Items belong to groups, users like a few groups, popularity falls as 1 /
rank. Every row is a process of its own; memory is the highest resident size of the driver and of
each worker (pages that they share count in both), processor time that of all of them.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import fields
from pathlib import Path

import numpy as np
from scipy import sparse
from threadpoolctl import threadpool_limits

from rove.behaviour import latest_of_pairs
from rove.factorisation import Factorisation, fit
from rove.user_blocks import Spread, here
from training import cluster
from training.parallel_fit import Pool

NUM_GROUPS, LIKED = 200, 4
TEXT, LEARNED = 32, 64


def log(num_users: int, per_user: int, num_items: int) -> sparse.csr_array:
    """Return the rewards (users, items) of about `per_user` interactions a user."""
    rng = np.random.default_rng(0)
    users = np.repeat(np.arange(num_users), rng.poisson(per_user, num_users) + 1)
    liked = rng.integers(0, NUM_GROUPS, (num_users, LIKED))
    group = liked[users, rng.integers(0, LIKED, len(users))]
    in_group = num_items // NUM_GROUPS
    rank = np.floor(in_group ** rng.random(len(users))).astype(np.int64) - 1
    anywhere = np.floor(num_items ** rng.random(len(users))).astype(np.int64) - 1
    items = np.where(rng.random(len(users)) < 0.7, group * in_group + rank, anywhere)
    rewards = np.exp2(-rng.random(len(users)) * 3)
    return latest_of_pairs(users, items, rewards, (num_users, num_items))


def digest(found: Factorisation) -> str:
    """Return a hash of every bit of the result."""
    whole = hashlib.sha256()
    for field in fields(found):
        whole.update(np.asarray(getattr(found, field.name)).tobytes())
    return whole.hexdigest()[:8]


def row(options: argparse.Namespace, num_workers: int) -> dict[str, float | str]:
    """Fit once; `num_workers` 0 is without Ray."""
    targets_IJ = log(options.users, options.per_user, options.items)
    rng = np.random.default_rng(1)
    text_JF = rng.normal(size=(options.items, TEXT)) / TEXT**0.5
    with ExitStack() as stack:
        stack.enter_context(threadpool_limits(1, user_api="blas"))
        spread: Spread = here
        pids: list[int] = []
        if num_workers:
            stack.enter_context(cluster.connected())
            pool = Pool(num_workers)
            pids, spread = pool.pids(), pool.spread
        before_s = sum(map(_cpu_s, pids))
        own = time.process_time()
        start = time.perf_counter()
        found = fit(
            targets_IJ,
            text_JF,
            num_learned_factors=LEARNED,
            max_sweeps=options.sweeps,
            rng=rng,
            spread=spread,
        )
        wall_s = time.perf_counter() - start
        own_s = time.process_time() - own
        workers_s = sum(map(_cpu_s, pids)) - before_s
        peaks = [_peak_mb(pid) for pid in pids]
    return {
        "workers": num_workers,
        "interactions": targets_IJ.nnz,
        "sweeps": found.num_sweeps,
        "wall_s": round(wall_s, 1),
        "driver_cpu_s": round(own_s, 1),
        "workers_cpu_s": round(workers_s, 1),
        "driver_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "worker_mb": max(peaks, default=0),
        "digest": digest(found),
    }


def _cpu_s(pid: int) -> float:
    """Return the processor time of a process: fields 14 and 15, the name's parenthesis is 2."""
    after_name = Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()
    return (int(after_name[11]) + int(after_name[12])) / os.sysconf("SC_CLK_TCK")


def _peak_mb(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text("utf-8").splitlines()
    return next(int(line.split()[1]) // 1024 for line in lines if line.startswith("VmHWM"))


def main() -> None:
    """Print a row for each number of workers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, default=200_000)
    parser.add_argument("--per-user", type=int, default=15)
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--sweeps", type=int, default=8)
    parser.add_argument("--workers", type=int, nargs="*", default=[0, 1, 2])
    options = parser.parse_args()
    if len(options.workers) == 1:
        print(json.dumps(row(options, options.workers[0])), flush=True)
        return
    sizes = [f"--{name}={getattr(options, name)}" for name in ("users", "items", "sweeps")]
    for num_workers in options.workers:
        command = [sys.executable, "-m", "benchmarks.factorise", *sizes]
        command += [f"--per-user={options.per_user}", f"--workers={num_workers}"]
        subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
