"""`compose.yaml` and the `Dockerfile`, read as Docker reads them."""

import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import yaml

ROOT = Path(__file__).parents[1]
COMPOSE = ROOT / "compose.yaml"
DOCKERFILE = ROOT / "Dockerfile"
RUNTIME_LOCK = ROOT / "requirements-runtime.lock"
LOCK = ROOT / "requirements.lock"

VARIABLE = re.compile(r"\$(?:\$|\{(?P<name>\w+)(?::-(?P<default>[^}]*))?\})")
PINNED = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)==(?P<version>[^ ;]+)(?: ; (?P<marker>.*?))? \\$", re.MULTILINE)
SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600}
BYTES = {"k": 1024, "m": 1024**2, "g": 1024**3}

Service = dict[str, Any]


def composition(environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The file with its variables replaced by what is in `environment`, else by their defaults."""
    found = _interpolated(yaml.safe_load(COMPOSE.read_text()), environment or {})
    assert isinstance(found, dict)
    return found


def services(environment: Mapping[str, str] | None = None) -> dict[str, Service]:
    found: dict[str, Service] = composition(environment)["services"]
    return found


def is_ours(service: Service) -> bool:
    return "build" in service


def _interpolated(value: Any, environment: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {name: _interpolated(one, environment) for name, one in value.items()}
    if isinstance(value, list):
        return [_interpolated(one, environment) for one in value]
    if not isinstance(value, str):
        return value
    return VARIABLE.sub(lambda found: "$" if found["name"] is None else _value(found, environment), value)


def _value(found: re.Match[str], environment: Mapping[str, str]) -> str:
    return environment.get(found["name"]) or found["default"] or ""


def variables() -> set[str]:
    """Names of what can be set from outside."""
    return {found["name"] for found in VARIABLE.finditer(COMPOSE.read_text()) if found["name"]}


def seconds(duration: str) -> float:
    """`1m30s` as 90."""
    parts = re.findall(r"(\d+)(ms|[smh])", duration)
    assert "".join("".join(part) for part in parts) == duration, duration
    return sum(int(number) * SECONDS[unit] for number, unit in parts)


def size(text: str) -> int:
    """`512m` in bytes."""
    return int(text[:-1]) * BYTES[text[-1]]


def in_start_order(found: Mapping[str, Service]) -> list[str]:
    """Each after what it depends on. Raises AssertionError for a circle."""
    order: list[str] = []

    def place(name: str, above: tuple[str, ...]) -> None:
        assert name not in above, f"a circle: {above}"
        for needed in found[name].get("depends_on", {}):
            place(needed, (*above, name))
        if name not in order:
            order.append(name)

    for name in found:
        place(name, ())
    return order


class Instruction(NamedTuple):
    """`COPY a b` has the word COPY and the rest `a b`."""

    word: str
    rest: str

    def words(self) -> list[str]:
        """Of a JSON array its members, else what stands between blanks."""
        return msgspec.json.decode(self.rest, type=list[str]) if self.rest.startswith("[") else shlex.split(self.rest)


class Stage(NamedTuple):
    """From `FROM` to `FROM`. `base` is an image, or the name of a stage before."""

    name: str
    base: str
    instructions: tuple[Instruction, ...]

    def all(self, word: str) -> list[Instruction]:
        return [one for one in self.instructions if one.word == word]


def stages() -> list[Stage]:
    """Of the Dockerfile, in its order."""
    found: list[Stage] = []
    for one in _instructions():
        if one.word == "FROM":
            base, *rest = one.words()
            found.append(Stage(rest[1] if rest else "", base, ()))
        else:
            found[-1] = found[-1]._replace(instructions=(*found[-1].instructions, one))
    return found


def _instructions() -> Iterator[Instruction]:
    lines = [line for line in DOCKERFILE.read_text().splitlines() if not line.lstrip().startswith("#")]
    for text in "\n".join(lines).replace("\\\n", " ").splitlines():
        if text.strip():
            word, _, rest = text.strip().partition(" ")
            yield Instruction(word.upper(), rest.strip())


def lineage(stage: Stage) -> list[Stage]:
    """The stage with those that it stands on, the lowest first."""
    named = {one.name: one for one in stages() if one.name}
    below = named.get(stage.base)
    return [*(lineage(below) if below else []), stage]


def final_value(word: str) -> list[str]:
    """What the last stage says with `word`, or else the stages below it."""
    said = [one for stage in lineage(stages()[-1]) for one in stage.all(word)]
    return said[-1].words() if said else []


def environment_of_image() -> dict[str, str]:
    pairs = [pair for stage in lineage(stages()[-1]) for one in stage.all("ENV") for pair in one.words()]
    return dict(pair.split("=", 1) for pair in pairs)


def copies(stage: Stage) -> list[tuple[list[str], str, str | None]]:
    """(sources, target, stage that they are from or None: the folder of the Dockerfile)."""
    found = []
    for one in stage.all("COPY"):
        words = one.words()
        origin = words.pop(0).removeprefix("--from=") if words[0].startswith("--from=") else None
        found.append((words[:-1], words[-1], origin))
    return found


class Pin(NamedTuple):
    version: str
    marker: str | None


def pinned(lock: Path) -> dict[str, list[Pin]]:
    """By name; several where the version depends on the platform."""
    found: dict[str, list[Pin]] = {}
    for one in PINNED.finditer(lock.read_text()):
        found.setdefault(one["name"], []).append(Pin(one["version"], one["marker"]))
    return found
