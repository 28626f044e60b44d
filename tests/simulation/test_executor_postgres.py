"""The executor on PostgreSQL, whose clock goes on by itself."""

from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.simulation.machine import ExecutorMachine
from tests.simulation.worlds import PostgresWorld, World

PROFILE = settings(
    max_examples=16,
    stateful_step_count=25,
    deadline=None,
    derandomize=True,
    phases=[Phase.generate],  # to shrink a failure takes minutes here: the one in memory does it in seconds
    report_multiple_bugs=False,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)


def test_executor_on_postgres(module_database_url: str) -> None:
    class PostgresMachine(ExecutorMachine):
        def open_world(self, *, optimistic: bool) -> World:
            return PostgresWorld(module_database_url, optimistic=optimistic)

    run_state_machine_as_test(PostgresMachine, settings=PROFILE)
