"""The domain: aggregates, events, commands and decisions of an inventory with reservations.

Pure: no I/O, no clock, no import of another room. Time, ids and loaded aggregates come in as
arguments; events and named errors come out.
"""
