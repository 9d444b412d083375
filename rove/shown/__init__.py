"""Learning from what was shown: the mixed model (`rove.mixed`) over the ledger's decisions.

contexts   numbers of a request's context
trials     decisions and their answers as trials
model      what a release has of it
posterior  the items' effects as of now: the release's, and what trials have added since
users      the users' effects
scoring    means and deviations for the policy
view       all of it in one shard
"""
