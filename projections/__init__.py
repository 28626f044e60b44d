"""Views of the log: pure folds of events into rows, where the rows are kept, and what keeps them up to date.

The folds (:mod:`projections.item_fold` and the views that it is made of) know no store. The follower, the
rebuild, an as-of read and a history all run the same ones.
"""
