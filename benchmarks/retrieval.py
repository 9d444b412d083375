"""Recall and speed of the index for large catalogues beside exact scores.

    python -m benchmarks.retrieval --data FOLDER [--items 1000000] [--write benchmarks/retrieval.md]

FOLDER holds movielens_latest_small/ratings.parquet. Items' features and users' tastes are its
centred ratings' leading singular vectors, each scaled by the root of its singular value: as uneven
as learnt ones. A catalogue of any size draws films with replacement and adds noise of `NOISE`
deviations of each column. Users are the real ones. Processor time, one core.
"""

from __future__ import annotations

import argparse
import datetime
import platform
import time
from pathlib import Path

import faiss
import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
from scipy.sparse import coo_matrix
from scipy.sparse.linalg import svds
from threadpoolctl import threadpool_limits

from rove.retrieval import MaxProductIndex

Vectors = npt.NDArray[np.float32]

NOISE = 0.3
NUM_QUERIES, TOP, SHORTLIST = 200, 10, 200
PROBED_SHARES = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2)


def learned(folder: Path, size: int) -> tuple[Vectors, Vectors]:
    """Return the films' features and mean, (J, D + 1), and the users' queries, (U, D + 1)."""
    table = pq.read_table(folder / "movielens_latest_small" / "ratings.parquet")
    names = table.column_names
    user_n, film_n = (
        np.unique(
            table[next(n for n in names if n.startswith(key))].to_numpy(), return_inverse=True
        )[1]
        for key in ("user", "movie")
    )
    rating_n = table["rating"].to_numpy().astype(np.float64)
    num_J = np.bincount(film_n)
    mean_J = (np.bincount(film_n, rating_n - rating_n.mean())) / (num_J + 5.0)
    left_n = rating_n - rating_n.mean() - mean_J[film_n]
    u_ID, scale_D, v_DJ = svds(
        coo_matrix((left_n, (user_n, film_n))).tocsr(), k=size, random_state=1
    )
    root_D = np.sqrt(scale_D)
    items_JC = np.hstack([v_DJ.T * root_D, mean_J[:, None]]).astype(np.float32)
    queries_IC = np.hstack([u_ID * root_D, np.ones((len(u_ID), 1))]).astype(np.float32)
    return items_JC, queries_IC


def enlarged(items_JC: Vectors, num_items: int, rng: np.random.Generator) -> Vectors:
    """Return `num_items` films drawn with replacement, with noise."""
    drawn_JC = items_JC[rng.integers(len(items_JC), size=num_items)]
    noise_JC = rng.standard_normal(drawn_JC.shape, np.float32)
    noise_JC *= np.float32(NOISE) * items_JC.std(0)
    noise_JC += drawn_JC
    return noise_JC


def rows_of(folder: Path, num_items: int, size: int) -> list[str]:
    """Return a row for each number of lists that are read."""
    rng = np.random.default_rng(3)
    films_JC, queries_IC = learned(folder, size)
    items_JC = enlarged(films_JC, num_items, rng)
    queries_QC = queries_IC[rng.permutation(len(queries_IC))[:NUM_QUERIES]]
    begun = time.process_time()
    index = MaxProductIndex.build(items_JC)
    built_s = time.process_time() - begun
    best, begun = [], time.process_time()
    for query_C in queries_QC:
        score_J = items_JC @ query_C
        best.append(np.argpartition(-score_J, TOP)[:TOP])
    exact_s = time.process_time() - begun
    lines = []
    num_lists = index._index.nlist
    others_QC = queries_IC[rng.permutation(len(queries_IC))]
    others_QC = others_QC[~(others_QC[:, None] == queries_QC).all(2).any(1)][:NUM_QUERIES]
    index.tune(items_JC, others_QC, SHORTLIST)
    tuned = index.num_probed
    for probed in (*(max(1, round(share * num_lists)) for share in PROBED_SHARES), tuned):
        index.num_probed = probed
        begun = time.process_time()
        found = [index.search(query_C[None], SHORTLIST) for query_C in queries_QC]
        taken_s = time.process_time() - begun
        hits = sum(len(np.intersect1d(a, b)) for a, b in zip(best, found, strict=True))
        lines.append(
            f"| {num_items:,} | {size} | {built_s:.0f} | {probed / num_lists:.1%} | "
            f"{hits / (TOP * len(best)):.4f} | {taken_s / len(best) * 1e3:.2f} | "
            f"{exact_s / taken_s:.1f} |"
        )
        print(lines[-1], flush=True)
    return lines


def main() -> None:
    """Measure, print, and write the report if asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("data"), metavar="FOLDER")
    parser.add_argument("--items", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--sizes", type=int, nargs="+", default=[32])
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    if not (options.data / "movielens_latest_small" / "ratings.parquet").exists():
        print(f"{options.data}: no movielens_latest_small/ratings.parquet; give --data FOLDER")
        return
    faiss.omp_set_num_threads(1)
    with threadpool_limits(1):
        lines = [
            row
            for size in options.sizes
            for num_items in options.items
            for row in rows_of(options.data, num_items, size)
        ]
    head = [
        "# The index for large catalogues",
        "",
        f"`python -m benchmarks.retrieval`, {datetime.datetime.now(datetime.UTC):%Y-%m-%d}, "
        f"one core ({platform.machine()}), processor time. Written by the program.",
        "",
        f"Recall of the exact top {TOP} among the {SHORTLIST} that one query finds, and time "
        "beside one float32 product with all items and a partial sort. The last row of each "
        "size is what `MaxProductIndex.tune` chose on other users.",
        "",
        "| items | d | build s | lists read | recall | ms a query | times faster |",
        "| ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    if options.write is not None:
        options.write.write_text("\n".join([*head, *lines]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
