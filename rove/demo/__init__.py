"""`rove demo`: the whole loop on a real shop, and the table that says whether it learns.

split      the shop's files: history up to a date, and the invoices after it
processes  the commands a user would type, each with its log
rivals     the baselines, on the same invoices
reading    which language model reads the items: as it is, or adapted to the history
frozen     the release as it is, without learning
windows    which invoices may be in flight together
replay     the invoices after the date, through HTTP: rank, then post what was bought
live       the replay's progress bar
results    every figure
report     the table on the terminal
plot       the learning curve
steps      the steps' lines and durations
main       the steps in order
"""
