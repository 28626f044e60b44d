import re
import threading
from pathlib import Path

import psycopg
import pytest

from infra.migrations.runner import EVENT_STORE, PUBLIC, READ_MODEL, MigrationError, MigrationSet, migrate


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "0001_colours.sql").write_text("CREATE TABLE colours (name text PRIMARY KEY);")
    (tmp_path / "0002_two_colours.sql").write_text(
        "INSERT INTO colours VALUES ('100 % red'); INSERT INTO colours VALUES ('blue');"
    )
    (tmp_path / "notes.txt").write_text("not a migration")
    return tmp_path


def rows(url: str, statement: str) -> list[tuple[object, ...]]:
    with psycopg.connect(url) as connection:
        return connection.execute(statement.encode()).fetchall()


def test_files_are_applied_in_order_once_and_recorded(empty_database_url: str, folder: Path) -> None:
    paint = MigrationSet(folder, "paint")
    assert migrate(empty_database_url, paint) == ["0001_colours.sql", "0002_two_colours.sql"]
    assert migrate(empty_database_url, paint) == []
    (folder / "0010_later.sql").write_text("INSERT INTO colours VALUES ('green')")
    assert migrate(empty_database_url, paint) == ["0010_later.sql"]
    assert rows(empty_database_url, "SELECT name FROM paint.colours ORDER BY name") == [
        ("100 % red",),
        ("blue",),
        ("green",),
    ]
    assert rows(empty_database_url, "SELECT number FROM paint.migrations ORDER BY number") == [(1,), (2,), (10,)]


def test_one_set_lives_in_any_number_of_schemas(empty_database_url: str, folder: Path) -> None:
    migrate(empty_database_url, MigrationSet(folder, "one"))
    migrate(empty_database_url, MigrationSet(folder, "two"))
    assert rows(empty_database_url, "SELECT count(*) FROM two.colours") == [(2,)]


def test_a_file_that_changed_after_it_was_applied_is_refused(empty_database_url: str, folder: Path) -> None:
    paint = MigrationSet(folder, "paint")
    migrate(empty_database_url, paint)
    (folder / "0001_colours.sql").write_text("CREATE TABLE colours (name text);")
    with pytest.raises(MigrationError, match=r"0001_colours\.sql has changed"):
        migrate(empty_database_url, paint)


def test_a_database_ahead_of_the_program_is_refused(empty_database_url: str, folder: Path) -> None:
    paint = MigrationSet(folder, "paint")
    migrate(empty_database_url, paint)
    (folder / "0002_two_colours.sql").unlink()
    with pytest.raises(MigrationError, match=r"0002_two_colours\.sql"):
        migrate(empty_database_url, paint)


def test_a_file_that_fails_leaves_nothing_behind_and_those_before_it_stay(
    empty_database_url: str, folder: Path
) -> None:
    paint = MigrationSet(folder, "paint")
    (folder / "0003_broken.sql").write_text("CREATE TABLE half (a int); SELECT * FROM nowhere;")
    with pytest.raises(MigrationError, match=r"0003_broken\.sql: .*nowhere"):
        migrate(empty_database_url, paint)
    assert rows(empty_database_url, "SELECT to_regclass('paint.half')") == [(None,)]
    assert rows(empty_database_url, "SELECT count(*) FROM paint.migrations") == [(2,)]
    (folder / "0003_broken.sql").write_text("CREATE TABLE half (a int);")
    assert migrate(empty_database_url, paint) == ["0003_broken.sql"]


@pytest.mark.parametrize("name", ["1_short.sql", "0003-dashes.sql", "first.sql"])
def test_a_badly_named_file_is_refused(empty_database_url: str, folder: Path, name: str) -> None:
    (folder / name).write_text("SELECT 1")
    with pytest.raises(MigrationError, match=re.escape(name)):
        migrate(empty_database_url, MigrationSet(folder, "paint"))


def test_a_number_used_twice_is_refused(empty_database_url: str, folder: Path) -> None:
    (folder / "0002_another.sql").write_text("SELECT 1")
    with pytest.raises(MigrationError, match="same number"):
        migrate(empty_database_url, MigrationSet(folder, "paint"))


def test_processes_that_start_at_once_apply_each_file_once(empty_database_url: str, folder: Path) -> None:
    (folder / "0003_slow.sql").write_text("SELECT pg_sleep(0.2); INSERT INTO colours VALUES ('slow');")
    applied: list[str] = []
    problems: list[Exception] = []

    def run() -> None:
        try:
            applied.extend(migrate(empty_database_url, MigrationSet(folder, "paint")))
        except Exception as error:  # noqa: BLE001  (whatever it is, the test must see it)
            problems.append(error)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    assert sorted(applied) == ["0001_colours.sql", "0002_two_colours.sql", "0003_slow.sql"]


def test_stockholds_own_sets_apply_to_an_empty_database(empty_database_url: str) -> None:
    for migration_set in (EVENT_STORE, READ_MODEL, PUBLIC):
        first = migrate(empty_database_url, migration_set)
        assert migrate(empty_database_url, migration_set) == []
        assert first == sorted(first)
