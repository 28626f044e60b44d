"""Java, Maven and the jars of the broker: found, brought once, or told in words what is missing."""

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from infra.embedded.errors import StartFailedError
from infra.kafka.java import AbandonedError, MissingError, broker_program, find_java, what_is_missing
from tests.support import eventually, is_running
from tests.support_kafka import program

JAVA_17 = "echo 'openjdk version \"17.0.15\" 2025-04-15' >&2"
JAVA_8 = "echo 'java version \"1.8.0_402\"' >&2"


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine that has what is in this folder and nothing else; its cache is empty."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("JAVA_HOME", "MAVEN_HOME"):
        monkeypatch.delenv(name, raising=False)
    return folder


def put(folder: Path, name: str, script: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / name
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return program


def test_without_java_it_is_said_what_is_needed(path: Path) -> None:
    with pytest.raises(MissingError, match=r"Kafka needs Java 17 or later, in JAVA_HOME or on the PATH$"):
        broker_program()
    assert what_is_missing() == "Kafka needs Java 17 or later, in JAVA_HOME or on the PATH"


def test_an_old_java_is_named_with_its_version(path: Path) -> None:
    old = put(path, "java", JAVA_8)
    with pytest.raises(MissingError, match=rf"{old} is Java 8"):
        find_java()


def test_a_program_that_is_no_java_is_named(path: Path) -> None:
    other = put(path, "java", "exit 1")
    with pytest.raises(MissingError, match=rf"{other} is no Java"):
        find_java()


def test_java_home_goes_before_the_path_and_an_old_one_is_passed_over(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_path = put(path, "java", JAVA_17)
    assert find_java() == on_path
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "jdk"))
    at_home = put(tmp_path / "jdk" / "bin", "java", JAVA_17)
    assert find_java() == at_home
    put(tmp_path / "jdk" / "bin", "java", JAVA_8)
    assert find_java() == on_path


def test_without_maven_it_is_said_what_can_be_done(path: Path) -> None:
    put(path, "java", JAVA_17)
    missing = what_is_missing()
    assert missing is not None
    assert "no mvn in MAVEN_HOME or on the PATH" in missing
    assert "STOCKHOLD_KAFKA_JARS" in missing


def test_a_folder_that_is_named_needs_no_maven_but_must_have_the_jars(path: Path, tmp_path: Path) -> None:
    java = put(path, "java", JAVA_17)
    assert what_is_missing(str(tmp_path)) is None
    with pytest.raises(StartFailedError, match=rf"STOCKHOLD_KAFKA_JARS: there are no jars of Kafka in {tmp_path}"):
        broker_program(str(tmp_path))
    (tmp_path / "kafka_2.13-4.3.1.jar").touch()
    assert broker_program(str(tmp_path)) == (java, tmp_path)


def test_what_maven_complains_of_is_told_and_nothing_half_is_kept(path: Path, tmp_path: Path) -> None:
    put(path, "java", JAVA_17)
    put(path, "mvn", "echo '[INFO] scanning'; echo '[ERROR] the network is away'; exit 1")
    with pytest.raises(StartFailedError, match=r"Maven could not bring Kafka's jars:\n\[ERROR\] the network is away$"):
        broker_program()
    assert [entry.suffix for entry in (tmp_path / "cache" / "stockhold").iterdir() if entry.suffix == ""] == []
    put(path, "mvn", 'for word in "$@"; do case $word in -DoutputDirectory=*) >"${word#*=}/kafka_2.jar";; esac; done')
    jars = broker_program().jars
    assert [jar.name for jar in jars.iterdir()] == ["kafka_2.jar"]
    put(path, "mvn", "exit 1")
    assert broker_program().jars == jars


def test_fetching_ends_when_nobody_waits_any_more(path: Path, tmp_path: Path) -> None:
    put(path, "java", JAVA_17)
    put(path, "mvn", f"echo $$ > {tmp_path}/pid; while :; do read -r _ < {tmp_path}/never; done")
    os.mkfifo(tmp_path / "never")
    abandoned = threading.Event()
    with ThreadPoolExecutor(2) as threads:
        fetching = [threads.submit(broker_program, "", abandoned) for _ in range(2)]
        text = eventually(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text().strip())
        assert isinstance(text, str)
        abandoned.set()
        for one in fetching:
            with pytest.raises(AbandonedError):
                one.result(timeout=10)
    assert not is_running(int(text))


@pytest.mark.kafka
def test_two_processes_that_need_the_jars_at_once_bring_them_once(tmp_path: Path) -> None:
    """With the real Maven, into an empty cache."""
    source = """
import logging
from infra.kafka.java import broker_program
logging.basicConfig(level="INFO")
print(broker_program().jars)
"""
    started = [
        subprocess.Popen(
            [sys.executable, "-c", source],
            env={**os.environ, "XDG_CACHE_HOME": str(tmp_path)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    said = [process.communicate() for process in started]
    assert [process.returncode for process in started] == [0, 0], said
    (place,) = {Path(out.strip()) for out, _ in said}
    assert sorted(errors.count("bringing Kafka's jars") for _, errors in said) == [0, 1]
    assert {jar.name for jar in place.iterdir()} == {jar.name for jar in program().jars.iterdir()}
    assert len(list(place.glob("kafka_*.jar"))) == 1


ROOT = Path(__file__).parents[2]
WITHOUT_JAVA = {"PATH": "", "JAVA_HOME": ""}


def pytest_without_java(**environment: str) -> "subprocess.CompletedProcess[str]":
    words = ["-q", "-rs", "-p", "no:cacheprovider", "tests/integration/test_kafka_topics.py"]
    return subprocess.run(
        [sys.executable, "-m", "pytest", *words],
        env={**os.environ, "STOCKHOLD_REQUIRE_KAFKA": "", **WITHOUT_JAVA, **environment},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_where_kafka_cannot_run_its_tests_are_left_out_and_the_last_line_says_so() -> None:
    left_out = pytest_without_java()
    assert left_out.returncode == 0, left_out.stdout
    assert "without Kafka: Kafka needs Java 17 or later" in left_out.stdout
    assert "passed" not in left_out.stdout
    ended = subprocess.run(
        [sys.executable, "-m", "tests.support_kafka"],
        env={**os.environ, **WITHOUT_JAVA},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert ended.stdout.startswith("passed; the tests of Kafka were left out: Kafka needs Java 17 or later")


def test_where_kafka_must_run_leaving_its_tests_out_is_a_failure() -> None:
    failed = pytest_without_java(STOCKHOLD_REQUIRE_KAFKA="1")
    assert failed.returncode == 1
    assert "Kafka needs Java 17 or later" in failed.stdout
    assert "skipped" not in failed.stdout
