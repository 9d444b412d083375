"""Off-policy evaluation: what another policy would have earned, from a log with propensities.

    logged, report = read_open_bandit("all.parquet", policy="random")
    print(evaluate(logged.under(probabilities_NS), np.random.default_rng(0)).table())

`log` holds what was logged, `estimators` and `slates` the values, `intervals` and `sequences` how
sure they are, `diagnostics` whether to believe them, `formats` and `ledger_log` read files,
`targets` asks another of Rove's policies for its probabilities of what was logged.
"""

from rove.ope.cleaning import clean
from rove.ope.diagnostics import Diagnostics, diagnose, diagnose_slates
from rove.ope.estimators import (
    Estimate,
    direct,
    doubly_robust,
    ips,
    mips,
    replay,
    self_normalised_doubly_robust,
    shrunk_doubly_robust,
    snips,
    switch_doubly_robust,
)
from rove.ope.evaluating import Report, evaluate
from rove.ope.formats import hashed, read_dsjson, read_open_bandit, read_vw
from rove.ope.intervals import Interval, bootstrap, empirical_bernstein
from rove.ope.ledger_log import LoggedSlates, read_ledger
from rove.ope.log import Log, Logged, SlateLog
from rove.ope.reward_model import categories_of, cross_fitted, predicted_ahead
from rove.ope.sequences import ConfidenceSequence, confidence_sequence
from rove.ope.slates import (
    cascade_doubly_robust,
    independent_ips,
    reward_interaction_ips,
    standard_ips,
)
from rove.ope.targets import EMPTY, Target, marginals, under_policy
from rove.ope.tuning import least_error, slope, tuned_ips, tuned_shrinkage, tuned_switch

__all__ = [
    "EMPTY",
    "ConfidenceSequence",
    "Diagnostics",
    "Estimate",
    "Interval",
    "Log",
    "Logged",
    "LoggedSlates",
    "Report",
    "SlateLog",
    "Target",
    "bootstrap",
    "cascade_doubly_robust",
    "categories_of",
    "clean",
    "confidence_sequence",
    "cross_fitted",
    "diagnose",
    "diagnose_slates",
    "direct",
    "doubly_robust",
    "empirical_bernstein",
    "evaluate",
    "hashed",
    "independent_ips",
    "ips",
    "least_error",
    "marginals",
    "mips",
    "predicted_ahead",
    "read_dsjson",
    "read_ledger",
    "read_open_bandit",
    "read_vw",
    "replay",
    "reward_interaction_ips",
    "self_normalised_doubly_robust",
    "shrunk_doubly_robust",
    "slope",
    "snips",
    "standard_ips",
    "switch_doubly_robust",
    "tuned_ips",
    "tuned_shrinkage",
    "tuned_switch",
    "under_policy",
]
