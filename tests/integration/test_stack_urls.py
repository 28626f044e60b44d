"""Commands on a data folder: of a stack that runs, and of one that does not."""

from pathlib import Path

import psycopg
import pytest
import redis

from infra.cli.shared import stack_urls
from infra.embedded.errors import DataFolderInUseError
from infra.embedded.folder import DataFolder
from infra.embedded.leftover import processes_in
from infra.embedded.stack import StackOptions, running_stack
from infra.settings import ServerSettings


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for field in ServerSettings.model_fields:
        monkeypatch.delenv(f"STOCKHOLD_{field.upper()}", raising=False)


def test_a_running_stack_is_joined_and_left_running(module_data_dir: Path) -> None:
    with running_stack(StackOptions(module_data_dir, roles=frozenset())) as info:
        with stack_urls(module_data_dir) as urls:
            assert urls == info.urls
        with psycopg.connect(urls.event_store_url) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)


def test_a_stopped_stack_is_started_for_the_block_and_stopped_again(module_data_dir: Path) -> None:
    with running_stack(StackOptions(module_data_dir, roles=frozenset())) as info:
        psycopg.connect(info.event_store_url).close()
    with stack_urls(module_data_dir) as urls:
        with psycopg.connect(urls.event_store_url) as connection:
            assert connection.execute("SELECT to_regclass('stockhold.migrations') IS NOT NULL").fetchone() == (True,)
        with redis.Redis.from_url(urls.redis_url) as cache:
            assert cache.ping()
    assert not DataFolder(module_data_dir).is_locked()
    assert processes_in(module_data_dir.resolve() / "postgres", "postgres") == []


def test_the_default_folder_is_in_the_users_state_folder(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(data_dir))
    with running_stack(StackOptions(data_dir / "stockhold", roles=frozenset())) as info, stack_urls(None) as urls:
        assert urls == info.urls


def test_a_stack_that_is_still_starting_is_not_disturbed(module_data_dir: Path) -> None:
    """It holds the folder and has said nothing about addresses yet."""
    with DataFolder(module_data_dir).locked(), pytest.raises(DataFolderInUseError), stack_urls(module_data_dir):
        pass
