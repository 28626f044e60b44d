"""What an executor promises, whatever keeps its log: told once, run in memory (unit) and on PostgreSQL (integration).

Each module holds classes of tests that take a fixture `cluster` (see tests/support_write_side.py); the two modules
named test_executor.py make them test classes of their own, lock-first and optimistic.
"""

import pytest

_MODULES = ("batches", "expiry", "failures", "idempotency", "memory", "neighbours", "shortage")
pytest.register_assert_rewrite(*(f"{__name__}.{module}" for module in _MODULES))
