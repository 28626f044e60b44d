"""All the cases, in the order in which they run: those that share a stack stand together."""

from collections.abc import Callable

from benchmarks.bench import Bench
from benchmarks.cases import (
    batch,
    expiry,
    freshness,
    history,
    intake,
    mixed,
    processes,
    reads,
    rebuild,
    relay,
    worker,
    writes,
)
from benchmarks.report import CaseResult

CASES: dict[str, Callable[[Bench], list[CaseResult]]] = {
    # The write side alone.
    "W1": writes.w1_cold,
    "W2": writes.w2_hot,
    "W3": writes.w3_cart,
    "W4": batch.w4_batch,
    "W6": history.w6_history,
    "W5": processes.w5_processes,
    # The write side and the sweeper.
    "E1": expiry.e1_expiry,
    # The whole stack.
    "R1": reads.r1_availability,
    "R2": reads.r2_many,
    "R3": reads.r3_replay,
    "W7": mixed.w7_mixed,
    "P2": freshness.p2_freshness,
    "FLOORS": mixed.floors,
    "P3": rebuild.p3_rebuild,
    # With Kafka: the write side with a broker and what a case starts, the write side with the intake, the whole.
    "P1": worker.p1_worker,
    "P1R": relay.p1r_relay,
    "W4K": intake.w4k_intake,
    "P2K": freshness.p2k_freshness,
    "P3K": rebuild.p3k_rebuild,
}
NEED_KAFKA = {"P1", "P1R", "W4K", "P2K", "P3K"}
