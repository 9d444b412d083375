"""The items' effects as of now: the release's posterior, and what trials have added since.

A trial of item j with features z, weight w and response y (`rove.mixed.links`) adds w z z' to the
item's precision and w z y to its pull. Both are sums, so trials of all shards add up in any order:

    C = (C_0^-1 + A)^-1 = C_0 - C_0 (I + A C_0)^-1 A C_0        m = m_0 + C (b - A m_0)

with A and b the sums of moments and pulls. A reward that is corrected by d adds z d / phi to the
pull and nothing to the precision, whatever the link: the response's weight times its change.

Shapes: J rows, P effects, V = P (P + 1) / 2 + P numbers of a sum: the moments' triangle, the pull;
W = P + 2 numbers of a trial's part of it, from which it follows: z, w and w y (0 and d / phi).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from rove.item_index import ItemIndex
from rove.ledger.records import TrialSums
from rove.shown.model import ShownModel

Array = npt.NDArray[np.float64]
Vectors = npt.NDArray[np.float32]
Rows = npt.NDArray[np.intp]


class ItemPosterior:
    """Mean and covariance of every row's effects; sums are kept per shard, None is the own one."""

    mean_JP: Vectors
    covariance_JPP: Vectors
    text_JG: Array
    dispersion_J: Array
    revisions: dict[int, int]
    """Per other shard, the latest revision that was read."""

    def __init__(self, model: ShownModel, index: ItemIndex, own: TrialSums) -> None:
        self._model = model
        self._index = index
        self._triangle = np.triu_indices(model.mean_JP.shape[1])
        self._base_mean_JP: npt.NDArray[np.floating] = model.mean_JP
        self._base_covariance_JPP: npt.NDArray[np.floating] = model.covariance_JPP
        self.mean_JP = np.array(model.mean_JP)
        self.covariance_JPP = np.array(model.covariance_JPP)
        self.dispersion_J = np.array(model.dispersion_J)
        self.text_JG = model.text(index.embeddings(np.arange(len(self.mean_JP))))
        self._sums: dict[int | None, dict[str, Array]] = {None: {}}
        self._changed: set[str] = set()
        self.revisions = {}
        self._replace(None, own)

    def __len__(self) -> int:
        return len(self.mean_JP)

    @property
    def size(self) -> int:
        """V."""
        return len(self._triangle[0]) + int(self._model.mean_JP.shape[1])

    def grow(self, embeddings_nE: Vectors, replaced: Rows) -> None:
        """Take in rows that the index appended; one that replaces another keeps its effects."""
        text_nG = self._model.text(embeddings_nE)
        mean_nP, covariance_nPP = self._model.promised(text_nG)
        dispersion_n = np.full(len(text_nG), self._model.dispersion)
        known = replaced >= 0
        mean_nP[known] = self._base_mean_JP[replaced[known]]
        covariance_nPP[known] = self._base_covariance_JPP[replaced[known]]
        dispersion_n[known] = self.dispersion_J[replaced[known]]
        first = len(self)
        mean_n32, covariance_n32 = mean_nP.astype(np.float32), covariance_nPP.astype(np.float32)
        self._base_mean_JP = np.concatenate([self._base_mean_JP, mean_n32])
        self._base_covariance_JPP = np.concatenate([self._base_covariance_JPP, covariance_n32])
        self.mean_JP = np.concatenate([self.mean_JP, mean_n32])
        self.covariance_JPP = np.concatenate([self.covariance_JPP, covariance_n32])
        self.dispersion_J = np.concatenate([self.dispersion_J, dispersion_n])
        self.text_JG = np.concatenate([self.text_JG, text_nG])
        new = {self._index.ids[row] for row in range(first, len(self))}
        self._changed |= new & {item_id for sums in self._sums.values() for item_id in sums}

    def merge(self, news: Mapping[int, TrialSums]) -> None:
        """Take in what other shards wrote."""
        for shard, sums in news.items():
            self._replace(shard, sums)
            self.revisions[shard] = sums.revision

    def prepare(self, item_ids: Sequence[str], added_nV: Array) -> TrialSums:
        """Return this shard's sums after adding one row for each of n trials."""
        own, changed = self._sums[None], dict[str, Array]()
        for item_id, added_V in zip(item_ids, added_nV, strict=True):
            before = changed.get(item_id)
            before = own.get(item_id) if before is None else before
            changed[item_id] = added_V if before is None else before + added_V
        sums_nV = np.array(list(changed.values())).reshape(len(changed), self.size)
        return TrialSums(item_ids=list(changed), sums_nV=sums_nV)

    def commit(self, sums: TrialSums) -> None:
        """Apply what `prepare` returned, once it is in the ledger."""
        self._replace(None, sums)

    def added(self, parts_nW: Array) -> Array:
        """Return what trials with parts [z, w, w y] add to their items' sums, (n, V)."""
        first, second = self._triangle
        z_nP, weight_n1, pull_n1 = parts_nW[:, :-2], parts_nW[:, -2:-1], parts_nW[:, -1:]
        return np.hstack([weight_n1 * z_nP[:, first] * z_nP[:, second], pull_n1 * z_nP])

    def without(self, item_ids: Sequence[str], parts_nW: Array) -> TrialSums:
        """Return this shard's sums after taking trials out again."""
        return self.prepare(item_ids, -self.added(parts_nW) if item_ids else parts_nW)

    def refresh(self) -> None:
        """Bring the posterior of the items whose sums changed up to date."""
        rows, totals = [], []
        for item_id in self._changed:
            row = self._index.last_row(item_id)
            if row >= 0:
                rows.append(row)
                totals.append(sum(s[item_id] for s in self._sums.values() if item_id in s))
        self._changed.clear()
        if not rows:
            return
        total_nV, num = np.array(totals, np.float64), self._model.mean_JP.shape[1]
        moment_nPP = np.zeros((len(rows), num, num))
        first, second = self._triangle
        moment_nPP[:, first, second] = moment_nPP[:, second, first] = total_nV[:, :-num]
        base_nPP = self._base_covariance_JPP[rows].astype(np.float64)
        base_nP = self._base_mean_JP[rows].astype(np.float64)
        grown_nPP = np.eye(num) + base_nPP @ moment_nPP
        covariance_nPP = np.linalg.solve(grown_nPP, base_nPP)
        covariance_nPP = (covariance_nPP + covariance_nPP.swapaxes(1, 2)) / 2.0
        left_nP = total_nV[:, -num:] - np.einsum("npq,nq->np", moment_nPP, base_nP)
        self.mean_JP[rows] = base_nP + np.einsum("npq,nq->np", covariance_nPP, left_nP)
        self.covariance_JPP[rows] = covariance_nPP

    def _replace(self, shard: int | None, sums: TrialSums) -> None:
        kept = self._sums.setdefault(shard, {})
        kept.update(zip(sums.item_ids, sums.sums_nV, strict=True))
        self._changed.update(sums.item_ids)
