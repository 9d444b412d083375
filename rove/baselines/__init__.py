"""Recommenders to be measured against: simple, tuned, and as well informed as Rove.

Every one of them is a `Baseline` (base.py): `fit` on a log, `scores` for a user, `observe` what the
user then did. Those that know users keep their profiles current through `observe`.

    random       a uniform draw
    popularity   counts of a recent window; counts that decay and are kept live
    als          matrix factorisation for implicit feedback, by the package `implicit` (optional)
    bpr          matrix factorisation that ranks pairs, by `implicit`
    item_knn     what users who took an item also took
    ease         a linear item-item model in closed form
    sasrec       a transformer over the user's items in order
    content      texts like those of the user's items, by a frozen language model
    blend        two baselines added
    fallback     another baseline for users without items
    replay       every basket is a request: ask for it, live or frozen
    tuning       choose settings on the end of the history
"""
