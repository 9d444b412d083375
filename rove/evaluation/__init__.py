"""How well rankings foresee what users do next: one split in time, one set of requests, all rivals.

split      the past, the later visits, the items nobody had learnt of
measuring  every rival answers every later visit: measures, slices, intervals
slices     which visits and items a figure is about
learned    Rove's model as one of the rivals
peers      the others, tuned on the end of the past
tables     the figures in Markdown and as plain numbers
"""
