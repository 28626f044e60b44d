"""All the cases, in the order in which they run: those that share a stack stand together."""

from collections.abc import Callable

from benchmarks.bench import Bench
from benchmarks.cases import writes
from benchmarks.report import CaseResult

CASES: dict[str, Callable[[Bench], list[CaseResult]]] = {
    "W1": writes.w1_cold,
    "W2": writes.w2_hot,
    "W3": writes.w3_cart,
}
