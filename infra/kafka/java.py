"""What an embedded broker runs on: a Java, and the jars of Kafka, which Maven collects once into a cache.

The cache is `stockhold` in the user's cache folder; a folder in it belongs to one version of `pom.xml`.
"""

import fcntl
import hashlib
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from signal import SIGKILL
from typing import IO, NamedTuple

from infra.embedded.child import GUARD
from infra.embedded.errors import StartFailedError

JAVA_OLDEST = 17
POM = Path(__file__).with_name("pom.xml")
PROBE_TIMEOUT_S = 30
FETCH_TIMEOUT_S = 900.0
POLL_S = 0.1
ERROR_LINES = 8

log = logging.getLogger(__name__)


class BrokerProgram(NamedTuple):
    """A Java that is new enough, and the folder with Kafka's jars."""

    java: Path
    jars: Path


class MissingError(StartFailedError):
    """There is no Java that is new enough here, or no Maven to bring the jars."""


class AbandonedError(StartFailedError):
    """Nobody waits for the jars any more."""


def broker_program(jars: str = "", abandoned: threading.Event | None = None) -> BrokerProgram:
    """What to start a broker with; the jars are brought first if they are not here yet, which takes some seconds.

    `jars`: a folder that has them already. `abandoned`: set it to end the fetching. Several may do this at once, also in
    several processes. Raises MissingError, StartFailedError.
    """
    java = find_java()
    if jars:
        return BrokerProgram(java, _given(Path(jars)))
    place = _cached_jars()
    if not place.exists():
        _fetch(place, find_maven(), abandoned or threading.Event())
    return BrokerProgram(java, place)


def what_is_missing(jars: str = "") -> str | None:
    """Why no broker can be had on this machine: no Java, or no Maven while the jars are not here; None: it can."""
    try:
        find_java()
        if not jars and not _cached_jars().exists():
            find_maven()
    except MissingError as error:
        return str(error)
    return None


def find_java() -> Path:
    """The Java of JAVA_HOME, or else the one on the PATH. Raises MissingError if neither is new enough."""
    seen = []
    for path in _programs("JAVA_HOME", "java"):
        version = _java_version(path)
        if version is not None and version >= JAVA_OLDEST:
            return path
        seen.append(f"{path} is " + (f"Java {version}" if version is not None else "no Java"))
    found = f" ({', '.join(seen)})" if seen else ""
    raise MissingError(f"Kafka needs Java {JAVA_OLDEST} or later, in JAVA_HOME or on the PATH{found}")


def find_maven() -> Path:
    """Raises MissingError."""
    for path in _programs("MAVEN_HOME", "mvn"):
        return path
    raise MissingError(
        "Kafka's jars are brought by Maven, and there is no mvn in MAVEN_HOME or on the PATH:"
        " install it, or name a folder that has the jars in STOCKHOLD_KAFKA_JARS"
    )


def _programs(home_variable: str, name: str) -> Iterator[Path]:
    home = os.environ.get(home_variable)
    if home and (inside := shutil.which(name, path=os.path.join(home, "bin"))):  # noqa: PTH118  (a search path is a text)
        yield Path(inside)
    if on_path := shutil.which(name):
        yield Path(on_path)


def _java_version(path: Path) -> int | None:
    """17 for `17.0.15`, 8 for `1.8.0_402`, None for a program that is none, such as macOS's stand-in."""
    try:
        said = subprocess.run(  # noqa: S603  (found by its name)
            [str(path), "-version"], capture_output=True, text=True, check=True, timeout=PROBE_TIMEOUT_S
        )
    except (OSError, subprocess.SubprocessError):
        return None
    found = re.search(r'version "(?:1\.)?(\d+)', said.stderr + said.stdout)
    return int(found[1]) if found else None


def _given(folder: Path) -> Path:
    if not list(folder.glob("kafka_*.jar")):
        raise StartFailedError(f"STOCKHOLD_KAFKA_JARS: there are no jars of Kafka in {folder}")
    return folder.resolve()


def _cached_jars() -> Path:
    from platformdirs import user_cache_path

    version = hashlib.blake2b(POM.read_bytes(), digest_size=8).hexdigest()
    return user_cache_path("stockhold", appauthor=False) / f"kafka-{version}"


def _fetch(place: Path, maven: Path, abandoned: threading.Event) -> None:
    """Collect the jars beside `place` and move them there whole; whoever comes meanwhile waits and finds them."""
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with _locked(place.with_suffix(".lock"), abandoned):
            if place.exists():
                return
            beside = place.with_suffix(".new")
            shutil.rmtree(beside, ignore_errors=True)
            beside.mkdir()
            log.info("bringing Kafka's jars with Maven into %s, once", place)
            _run_maven(maven, beside, abandoned)
            # Another account runs the broker when we are root, and a umask may have hidden them from it.
            for jar in beside.iterdir():
                jar.chmod(0o644)
            beside.chmod(0o755)
            beside.rename(place)
    except OSError as error:
        raise StartFailedError(f"Kafka's jars cannot be kept in {place}: {error}") from error


@contextmanager
def _locked(path: Path, abandoned: threading.Event) -> Iterator[None]:
    with path.open("w") as lock:
        while True:
            with suppress(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            if abandoned.wait(POLL_S):
                raise AbandonedError("told to stop while another process was bringing Kafka's jars")
        yield


def _run_maven(maven: Path, target: Path, abandoned: threading.Event) -> None:
    guard = [sys.executable, "-I", "-S", str(GUARD), "--parent", str(os.getpid()), "--death-signal", str(int(SIGKILL))]
    with tempfile.TemporaryDirectory(prefix="stockhold-maven-") as folder, tempfile.TemporaryFile("w+") as output:
        # A copy: Maven may want to write beside the pom, and ours may be where nobody writes.
        pom = shutil.copy(POM, folder)
        goal = ["dependency:copy-dependencies", f"-DoutputDirectory={target}"]
        maven_itself = [str(maven), "--quiet", "--batch-mode", "--strict-checksums", "--file", str(pom), *goal]
        process = subprocess.Popen(  # noqa: S603  (found by its name)
            [*guard, "--", *maven_itself],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=folder,
            start_new_session=True,
        )
        try:
            _wait(process, abandoned)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, SIGKILL)
            process.wait()
        if process.returncode != 0:
            raise StartFailedError(f"Maven could not bring Kafka's jars:\n{_end_of(output)}")


def _wait(process: "subprocess.Popen[bytes]", abandoned: threading.Event) -> None:
    deadline_s = time.monotonic() + FETCH_TIMEOUT_S
    while process.poll() is None:
        if abandoned.wait(POLL_S):
            raise AbandonedError("told to stop while Kafka's jars were being brought")
        if time.monotonic() > deadline_s:
            raise StartFailedError(f"Maven did not bring Kafka's jars within {FETCH_TIMEOUT_S:.0f} s")


def _end_of(output: IO[str]) -> str:
    """What Maven said that looks like an error, without colours."""
    output.seek(0)
    lines = re.sub(r"\x1b\[[0-9;]*m", "", output.read()).splitlines()
    return "\n".join([line for line in lines if line.startswith("[ERROR]")][:ERROR_LINES] or lines[-ERROR_LINES:])
