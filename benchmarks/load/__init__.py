"""A cheap load generator: raw sockets, epoll, requests made by formatting bytes, in a process of its own.

The client shares the machine's cores with what it measures, so every microsecond that it burns per request is
missing on the other side. Its own cost per request is measured by `benchmarks.machine` and printed with the figures.
"""

CLIENT_NAME = "stockhold raw-epoll client"
