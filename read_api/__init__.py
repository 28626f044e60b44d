"""Thin queries over the views, and replays of the log; nothing here changes anything.

Levels come from Redis and, where that is away or does not know, from Postgres; reservations, lists and
movements from Postgres; what was, from the log itself, folded by the projections' own folds.
"""
