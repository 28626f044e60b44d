"""What other systems are told: the public topics, derived from the log and from the refusals, at least once.

Pure: :mod:`~projections.public.stream_fold` and :mod:`~projections.public.messages` turn the state of a stock item and its next
event into messages. :mod:`~projections.public.publisher` brings events, states and the brokers together, step by step;
:mod:`~projections.public.runner` drives it for good, as a process of its own.
"""
