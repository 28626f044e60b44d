"""What one run of the bench is asked to do."""

import msgspec


class Process(msgspec.Struct, frozen=True):
    """A process of the stack, as `stockhold up --json` names it."""

    name: str
    pid: int
    monitor: str = ""
    """Where it shows its figures, if it does so on a port of its own."""


class StackFacts(msgspec.Struct, frozen=True):
    """The line that `stockhold up --json` prints; of a stack that is known by its URLs only, some are missing."""

    command_url: str | None
    event_store_url: str
    read_url: str | None = None
    read_model_url: str = ""
    redis_url: str = ""
    kafka: str = ""
    """Its brokers, as host:port with commas between."""
    processes: tuple[Process, ...] = ()


class Options(msgspec.Struct, frozen=True):
    """`seconds` per round, `rounds` per side and case, `items` on the shelves of the cold cases.

    `attached`: measure this running stack instead of starting one; cases that need a restart are then left out.
    `full`: the million-event variants too (minutes).
    """

    cases: tuple[str, ...] = ()
    seconds: float = 5.0
    rounds: int = 3
    items: int = 50_000
    full: bool = False
    attached: StackFacts | None = None
