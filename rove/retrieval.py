"""An index of a release's items for maximum inner product, so that not all need to be scored.

    x_j = [taste_gain phi_j, item_gain n_j / (n + a), item_gain a pi_j / (n + a), d0_j, d1_j, 0]
    q   = [theta,            w_n,                     w_pi,                       u0,   u1,   |.|]

q . x_j is the mean reward plus u times the deviation, d0 for users without and d1 for users with a
past. The two terms of the item mean (`rove.item_means`) are apart, since what happens to other
items, and time, change every share by two common factors: with w_n and w_pi of now, q . x_j is
still the exact mean of an item that nothing happened to since the index was built.

Inverted lists (faiss `IndexIVFFlat`): the items around each of about 4 sqrt(J) centres c, found by
k-means, lie together; a query reads the lists with the largest

    q . c + |q| r_c / sqrt(C)     r_c: distance of the list's furthest item, C: columns

and all of their items exactly. The second term is a share of the bound q . x <= q . c + |q| r_c:
without it a list whose centre is near the origin but which holds one of the few items of large
norm is passed over (recall@10 .93 instead of .99 for the same number of lists). It costs no extra
work: r_c is one more coordinate of the centres, in which the items are zero.

- The file is faiss's own format, memory-mapped: no pickle, and shards of a node share its pages.
- Without faiss there is no index and every item is scored.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rove.common_variance import common_variances
from rove.errors import ReleaseError
from rove.item_means import ItemMeans
from rove.model import ItemFeatures, RewardModel

try:
    import faiss as _faiss

    faiss: Any = _faiss  # its stubs contradict what it takes
except ImportError:  # the extra `retrieval` is not installed
    faiss = None

Vectors = npt.NDArray[np.float32]
Rows = npt.NDArray[np.intp]

EXACT_ITEMS = 200_000
"""Catalogues up to this size are scored whole, without approximation: one query of the index is 12
times as fast at 100,000 items and 70 times at a million (`benchmarks/retrieval.md`), but a request
that explores asks four, and an index takes seconds to build at every refit."""
MOST_READ = 0.1
"""Share of the lists: with more, the four queries of a request that explores are no faster than
scoring every item (`benchmarks/retrieval_path.md`)."""
NUM_DEVIATION_COLUMNS = 2
RECALL, TOP = 0.995, 10
"""What `MaxProductIndex.tune` asks of sample queries: above the .99 that new ones are to have."""
NUM_SAMPLE_QUERIES = 128
_NUM_CHOSEN = 5
_NUM_FOUND = 64
"""Rows that a request asks for, as the default shortlist does."""
_FIRST_PROBED = 8
_LISTS_PER_ROOT = 4.0
_PROBED_SHARE = 0.05
_MIN_PROBED = 64
_SAMPLE_PER_LIST = 64
_NUM_SWEEPS = 8
_SEED = 1


def is_installed() -> bool:
    """Say whether an index can be built and read."""
    return faiss is not None


def item_vectors(model: RewardModel, items: ItemFeatures, means: ItemMeans) -> Vectors:
    """Return what is indexed of each item, (J, D + 4); see the module's docstring."""
    variance_J = model.item_gain**2 * means.share()[1]
    deviations = common_variances(model, model.posterior(), items)
    gain = model.taste_gain**2
    earned_J, promised_J = means.terms()
    columns = [
        model.item_gain * earned_J,
        model.item_gain * promised_J,
        *(np.sqrt(variance_J + gain * deviations[has_past]) for has_past in (False, True)),
    ]
    return np.hstack(
        [
            np.float32(model.taste_gain) * items.features_JD,
            np.stack(columns, axis=1).astype(np.float32),
        ]
    )


def sample_queries(model: RewardModel, items: ItemFeatures, rng: np.random.Generator) -> Vectors:
    """Return queries like those to come (n, D + 4): of users without a past, and with one.

    Tastes are drawn from the population's prior, and are those of users who chose a few items.
    """
    posterior, num = model.posterior(), NUM_SAMPLE_QUERIES // 2
    new_nD = rng.multivariate_normal(
        posterior.prior_mean_D, posterior.prior_covariance_DD, num, method="eigh"
    )
    chosen = rng.integers(len(items.features_JD), size=(num, _NUM_CHOSEN))
    pull_nD = items.features_JD[chosen].astype(np.float64).sum(1)
    known_nD = posterior.idle_mean_D + pull_nD @ posterior.pull_DD
    query_nC = np.zeros((2 * num, model.num_factors + 2 + NUM_DEVIATION_COLUMNS), np.float32)
    query_nC[:, : model.num_factors] = np.vstack([new_nD, known_nD])
    query_nC[:, model.num_factors : -NUM_DEVIATION_COLUMNS] = 1.0
    return query_nC


class MaxProductIndex:
    """The items of largest inner product with a query, nearly always all of them."""

    num_rows: int
    num_columns: int
    """C, of the vectors that were given."""
    num_probed: int
    """How many lists a query reads."""

    def __init__(self, index: Any) -> None:
        self._index = index
        self.num_rows, self.num_columns = index.ntotal, index.d - 1
        num_probed = max(_MIN_PROBED, round(_PROBED_SHARE * index.nlist))
        if index.nprobe > 1:  # faiss's default is 1: `tune` has chosen
            num_probed = index.nprobe
        self.num_probed = min(num_probed, index.nlist)

    @property
    def share_read(self) -> float:
        """The share of the lists that a query reads."""
        return float(self.num_probed / self._index.nlist)

    @classmethod
    def build(cls, x_JC: Vectors) -> MaxProductIndex:
        """Index vectors (J, C): k-means on a sample, then each to its nearest centre."""
        assert faiss is not None, "ask is_installed first"
        num_rows, num_columns = x_JC.shape
        num_lists = min(num_rows, max(1, round(_LISTS_PER_ROOT * num_rows**0.5)))
        centre_LC, list_J = _clustered(x_JC, num_lists)
        square_J = np.square(x_JC - centre_LC[list_J]).sum(1)
        radius_L = np.zeros(num_lists, np.float32)
        np.maximum.at(radius_L, list_J, np.sqrt(square_J / num_columns))
        centres = faiss.IndexFlatIP(num_columns + 1)
        centres.add(np.hstack([centre_LC, radius_L[:, None]]))
        index = faiss.IndexIVFFlat(centres, num_columns + 1, num_lists, faiss.METRIC_INNER_PRODUCT)
        padded = np.hstack([x_JC, np.zeros((num_rows, 1), np.float32)])
        index.is_trained = True
        rows = np.arange(num_rows, dtype=np.int64)
        pointers = [faiss.swig_ptr(one) for one in (padded, rows, list_J)]
        index.add_core(num_rows, *pointers)
        return cls(index)

    def tune(self, x_JC: Vectors, query_QC: Vectors, num: int = _NUM_FOUND) -> float:
        """Read as many lists as sample queries need, and return their recall.

        Recall is the share of the exact best `TOP` in the `num` rows found. The number of lists
        doubles from 8 until recall is `RECALL` or all are read. It is kept in the file.
        """
        best_QT = [np.argpartition(-(x_JC @ query_C), TOP)[:TOP] for query_C in query_QC]
        self.num_probed, recall = min(_FIRST_PROBED, self._index.nlist), 0.0
        while True:
            hits = [
                np.isin(best_T, self.search(query_C[None], num)).mean()
                for best_T, query_C in zip(best_QT, query_QC, strict=True)
            ]
            recall = float(np.mean(hits))
            if recall >= RECALL or self.num_probed == self._index.nlist:
                self._index.nprobe = self.num_probed
                return recall
            self.num_probed = min(2 * self.num_probed, self._index.nlist)

    @classmethod
    def open(cls, path: Path) -> MaxProductIndex:
        """Map an index that `write` wrote."""
        assert faiss is not None, "ask is_installed first"
        try:
            index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY)
        except RuntimeError as error:
            raise ReleaseError(
                f"{path}: not a complete index: {str(error).splitlines()[-1]}; "
                "learn the release anew"
            ) from None
        if not isinstance(index, faiss.IndexIVFFlat):
            raise ReleaseError(f"{path}: another kind of index; learn the release anew")
        return cls(index)

    def write(self, path: Path) -> None:
        """Write the index into a file."""
        faiss.write_index(self._index, str(path))

    def search(self, query_QC: Vectors, num: int, among: RowSet | None = None) -> Rows:
        """Return the rows of the largest inner products with any of the queries, ascending.

        At most `num` for each query; fewer where the lists that are read hold fewer.
        """
        length_Q = np.linalg.norm(query_QC, axis=1, keepdims=True)
        padded = np.hstack([query_QC, length_Q]).astype(np.float32)
        # One thread, one request at a time: an answer must not depend on what waits beside it.
        faiss.omp_set_num_threads(1)
        parameters = faiss.SearchParametersIVF(nprobe=self.num_probed)
        if among is not None:
            parameters = faiss.SearchParametersIVF(nprobe=self.num_probed, sel=among.selector)
        _, rows_QN = self._index.search(padded, num, params=parameters)
        rows = np.unique(rows_QN)
        return rows[rows >= 0].astype(np.intp)


class RowSet:
    """The rows that a search may return."""

    def __init__(self, allowed_J: npt.NDArray[np.bool_]) -> None:
        self._bits = np.packbits(allowed_J, bitorder="little")
        self.selector: Any = faiss.IDSelectorBitmap(self._bits)


def _clustered(x_JC: Vectors, num_lists: int) -> tuple[Vectors, npt.NDArray[np.int64]]:
    """Return the centres (L, C) and the number of each vector's nearest centre (J,)."""
    num_rows, num_columns = x_JC.shape
    num_sampled = min(num_rows, num_lists * _SAMPLE_PER_LIST)
    sample = np.random.default_rng(_SEED).choice(num_rows, num_sampled, replace=False)
    sample.sort()
    clustering = faiss.Clustering(num_columns, num_lists)
    clustering.niter, clustering.seed = _NUM_SWEEPS, _SEED
    clustering.min_points_per_centroid = 1  # silences a warning on standard output
    nearest = faiss.IndexFlatL2(num_columns)
    clustering.train(np.ascontiguousarray(x_JC[sample]), nearest)
    centre_LC = faiss.vector_to_array(clustering.centroids).reshape(num_lists, num_columns)
    _, list_J1 = nearest.search(np.ascontiguousarray(x_JC), 1)
    return centre_LC.copy(), np.ascontiguousarray(list_J1[:, 0])
