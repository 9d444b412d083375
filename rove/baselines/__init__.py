"""Recommenders to be measured against: simple, tuned, and as well informed as Rove.

Every one of them is a `Baseline` (base.py): `fit` on a log, `scores` for a user, `observe` what the
user then did. Those that know users keep their profiles current through `observe`.

    random       a uniform draw
    popularity   counts of a recent window; counts that decay and are kept live
    als          matrix factorisation for implicit feedback, by the package `implicit` (optional)
    ease         a linear item-item model in closed form
    blend        two baselines added
    replay       rank every basket before it is observed
    tuning       choose settings on the end of the history
"""
