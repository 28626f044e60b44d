"""What the write side counts, for Prometheus."""

from prometheus_client import Counter, Gauge

COMMANDS = Counter("stockhold_commands", "Commands answered.", ["operation", "status"])
BATCHES = Counter("stockhold_batches", "Batches committed, by how they were decided.", ["way"])
CONFLICTS = Counter("stockhold_conflicts", "Batches decided again because somebody else was first.")
QUEUED = Gauge("stockhold_queued_commands", "Commands that wait to be decided.")
EXPIRED = Counter("stockhold_expired_holds", "Holds released because they were due, by the sweeper.")
