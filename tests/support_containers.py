"""Services of `compose.yaml` started without a container engine, from the files, commands and environments they would have.

`built_image` follows the Dockerfile into a folder; `Containers` follows the composition: start order and health checks
too. Hosts and ports alone are others: what would be a name in the containers' network is a server of the test's, and
each port inside a container becomes a free one of this machine.
"""

import importlib.metadata
import math
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
import venv
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import psutil

from infra.embedded.ports import LOOPBACK, free_server_ports
from tests.support import eventually, is_running
from tests.support_compose import (
    ROOT,
    RUNTIME_LOCK,
    Service,
    copies,
    environment_of_image,
    final_value,
    in_start_order,
    is_ours,
    pinned,
    seconds,
    size,
    stages,
)

PORT_SETTING = re.compile(r"^STOCKHOLD_(COMMAND|READ|MONITOR)_PORT$")
EVERYWHERE = "0.0.0.0"
ONE_SHOT_TIMEOUT_S = 120.0
GENERATED = ("__pycache__", "*.pyc")

Check = Callable[[], bool]


class Image:
    """What the Dockerfile makes, in a folder of this machine: files, and how a process in it begins."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.entrypoint = final_value("ENTRYPOINT")
        self.workdir = self.inside(final_value("WORKDIR")[0])
        ours = re.compile(r"(?<![\w/])/opt/stockhold")
        place = str(self.inside("/opt/stockhold"))
        self.environment = {name: ours.sub(place, value) for name, value in environment_of_image().items()}

    def inside(self, path: str) -> Path:
        return self.folder / path.lstrip("/")

    def files(self) -> dict[str, int]:
        """Every file with the time of its last change."""
        return {str(path): path.lstat().st_mtime_ns for path in sorted(self.folder.rglob("*"))}


def built_image(folder: Path) -> Image:
    """COPY as the Dockerfile has it; the packages of the runtime lock, and no others, from those that are installed here."""
    image = Image(folder)
    for stage in stages():
        for sources, target, origin in copies(stage):
            if origin is None:
                for source in sources:
                    _copy(ROOT / source, image.inside(target), into=target.endswith("/"))
    packages = image.inside("/opt/stockhold/venv")
    venv.EnvBuilder(with_pip=False, symlinks=True).create(packages)
    (target_folder,) = packages.glob("lib/python*/site-packages")
    for name in pinned(RUNTIME_LOCK):
        _link_package(name, target_folder)
    return image


def _copy(source: Path, target: Path, *, into: bool) -> None:
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns(*GENERATED))
    else:
        place = target / source.name if into else target
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, place)


def _link_package(name: str, target: Path) -> None:
    try:
        package = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        assert all(pin.marker for pin in pinned(RUNTIME_LOCK)[name]), f"{name} is needed everywhere and is not here"
        return
    for top in {file.parts[0] for file in package.files or ()} - {"..", "__pycache__"}:
        place = target / top
        if not place.exists():
            place.symlink_to(Path(str(package.locate_file(top))).resolve())


class Container:
    """One process of a service. `ports`: of this machine, by the ports inside."""

    def __init__(self, name: str, service: Service, image: Image, places: Mapping[str, str], folder: Path) -> None:
        self.name = name
        self.service = service
        self._image = image
        temporary = folder / f"{name}.tmp"
        temporary.mkdir()
        inside = [value for key, value in service["environment"].items() if PORT_SETTING.match(key)]
        self.ports: dict[str, str] = dict(zip(inside, map(str, free_server_ports(len(inside))), strict=True))
        self.environment = {
            **image.environment,
            "HOME": "/nonexistent",
            "TMPDIR": str(temporary),
            **{key: self._mapped(key, value, places) for key, value in service["environment"].items()},
        }
        self.log = folder / f"{name}.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._writing: IO[bytes] | None = None
        self._checked_s = -math.inf

    def _mapped(self, key: str, value: str, places: Mapping[str, str]) -> str:
        if PORT_SETTING.match(key):
            return str(self.ports[value])
        if value == EVERYWHERE:
            return LOOPBACK
        for name, address in places.items():
            value = value.replace(name, address)
        return value

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self, *command: str) -> None:
        """As the engine would: entrypoint and command, in the image's folder. `command`: another one than the service's."""
        assert self._process is None
        words = [*self._image.entrypoint, *(command or self.service["command"])]
        self._writing = self.log.open("ab")
        self._process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=self._writing,
            stderr=subprocess.STDOUT,
            cwd=self._image.workdir,
            env=self.environment,
            start_new_session=True,
        )

    def dies(self) -> None:
        """As of kill -9; and then what its restart policy makes of that: the same again."""
        assert self.service["restart"] == "unless-stopped"
        self.end()
        self._process = None
        self.start()

    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def exit_code(self, timeout_s: float) -> int:
        assert self._process is not None
        return self._process.wait(timeout_s)

    def is_healthy(self) -> bool:
        """By the service's own check, run as often as the composition has it for a service that starts."""
        assert self._process is not None
        assert self._process.poll() is None, f"{self.name} has ended: {self.said()}"
        interval_s = seconds(self.service["healthcheck"]["start_interval"])
        if time.monotonic() - self._checked_s < interval_s:
            return False
        healthy = self._check()
        self._checked_s = time.monotonic()
        return healthy

    def _check(self) -> bool:
        kind, *words = self.service["healthcheck"]["test"]
        assert kind == "CMD"
        for inside, outside in self.ports.items():
            words = [word.replace(f"{LOOPBACK}:{inside}/", f"{LOOPBACK}:{outside}/") for word in words]
        try:
            checked = subprocess.run(
                words,
                cwd=self._image.workdir,
                env=self.environment,
                capture_output=True,
                check=False,
                timeout=seconds(self.service["healthcheck"]["timeout"]),
            )
        except subprocess.TimeoutExpired:
            return False
        assert checked.returncode in {0, 1}, checked.stderr
        assert checked.stderr == b"", "a check that is refused is no error of the check"
        return checked.returncode == 0

    def family(self) -> list[psutil.Process]:
        process = psutil.Process(self.pid)
        return [process, *process.children(recursive=True)]

    def listening(self) -> set[tuple[str, str]]:
        """(address, port) of everything that it and its children listen on."""
        return {
            (connection.laddr.ip, str(connection.laddr.port))
            for process in self.family()
            for connection in process.net_connections("inet")
            if connection.status == psutil.CONN_LISTEN
        }

    def resident_bytes(self) -> int:
        return sum(int(process.memory_info().rss) for process in self.family())

    def stop(self) -> int:
        """SIGTERM, and the exit code. AssertionError if it takes longer than its grace, or leaves a process behind."""
        assert self._process is not None
        family = [process.pid for process in self.family()]
        self._process.send_signal(signal.SIGTERM)
        grace_s = seconds(self.service["stop_grace_period"])
        try:
            code = self._process.wait(grace_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} did not stop in {grace_s:g} s: {self.said()}") from None
        assert not [pid for pid in family if is_running(pid)], f"{self.name} left a process behind"
        return code

    def end(self) -> None:
        """Whatever has become of it."""
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        if self._writing is not None:
            self._writing.close()


class Containers:
    """Those of ours, in the order of the composition; its servers are the test's, `servers` says whether each is healthy."""

    def __init__(
        self,
        found: Mapping[str, Service],
        image: Image,
        places: Mapping[str, str],
        servers: Mapping[str, Check],
        folder: Path,
    ) -> None:
        self._services = found
        self.image = image
        self._places = places
        self._servers = servers
        self._folder = folder
        self.running: dict[str, list[Container]] = {}
        self._all: list[Container] = []

    def made(self, service: str, number: int = 1) -> Container:
        container = Container(f"{service}-{number}", self._services[service], self.image, self._places, self._folder)
        self._all.append(container)
        return container

    def up(self) -> None:
        """As `docker compose up --wait` does: back when everything is healthy."""
        for name in in_start_order(self._services):
            service = self._services[name]
            if not is_ours(service) or "profiles" in service:
                continue
            for needed, how in service["depends_on"].items():
                self._wait_for(needed, how["condition"])
            replicas = int(service["deploy"].get("replicas", 1))
            self.running[name] = [self.made(name, number) for number in range(1, replicas + 1)]
            for container in self.running[name]:
                container.start()
        self.wait()

    def wait(self) -> None:
        """Until everything that goes on running is healthy."""
        for name in list(self.running):
            if "healthcheck" in self._services[name]:
                self._wait_for(name, "service_healthy")

    def _wait_for(self, name: str, condition: str) -> None:
        if name in self._servers:
            assert condition == "service_healthy"
            eventually(self._servers[name], what=f"{name} is healthy")
        elif condition == "service_completed_successfully":
            for container in self.running[name]:
                assert container.exit_code(ONE_SHOT_TIMEOUT_S) == 0, container.said()
        elif condition == "service_healthy":
            patience_s = seconds(self._services[name]["healthcheck"]["start_period"])
            for container in self.running[name]:
                eventually(container.is_healthy, patience_s, what=f"{container.name} is healthy")

    def processes(self) -> list[Container]:
        """What goes on running."""
        return [one for name, ones in self.running.items() if "healthcheck" in self._services[name] for one in ones]

    def url(self, service: str) -> str:
        """Of the port that is published."""
        (published,) = self._services[service]["ports"]
        inside = published.rpartition(":")[2]
        return f"http://{LOOPBACK}:{self.running[service][0].ports[inside]}"

    def run(self, service: str, *command: str) -> tuple[int, str]:
        """As `docker compose run --rm SERVICE COMMAND` does: exit code, and all that was said."""
        container = self.made(service, 1 + sum(one.service is self._services[service] for one in self._all))
        container.start(*command)
        return container.exit_code(ONE_SHOT_TIMEOUT_S), container.said()

    def down(self) -> dict[str, int]:
        """As `docker compose stop` does, what depends on others first. Exit codes."""
        stopped = {container.name: container.stop() for container in reversed(self.processes())}
        self.running.clear()
        return stopped

    def end(self) -> None:
        for container in reversed(self._all):
            container.end()


@contextmanager
def containers(
    found: Mapping[str, Service], places: Mapping[str, str], servers: Mapping[str, Check]
) -> Iterator[Containers]:
    """None started yet; whatever still runs at the end of the block is killed."""
    folder = Path(tempfile.mkdtemp(prefix="stockhold-test-compose-"))
    run = Containers(found, built_image(folder / "image"), places, servers, folder)
    try:
        yield run
    finally:
        run.end()
        shutil.rmtree(folder, ignore_errors=True)


def memory_limit(service: Service) -> int:
    return size(service["deploy"]["resources"]["limits"]["memory"])


def command_of(service: Service, replaced: Mapping[str, str]) -> Sequence[str]:
    """The words of a server's health check, with what stands for its address replaced."""
    kind, *words = service["healthcheck"]["test"]
    assert kind == "CMD"
    found: list[str] = words
    for inside, outside in replaced.items():
        found = [word.replace(inside, outside) for word in found]
    return found
