"""The parts of a command that moved several holds: all there, one after another, and of one mind."""

from datetime import datetime
from typing import Final

import msgspec

from domain.events import Allocated
from domain.values import split_stock_stream
from projections.verify.replay import Complain

OPEN_MAX: Final = 10_000
"""Commands that may be under way at once in the log's order: it has them whole, one after another."""


class _Origin(msgspec.Struct, frozen=True):
    command_id: str


class _Part(msgspec.Struct, frozen=True):
    """What every event of a hold has in common, and what must be the same in all parts of its command."""

    originator_id: str
    origin: _Origin
    reservation_id: str | None = None
    order_id: str | None = None
    kind: str | None = None
    reason: str | None = None
    quantity: int | None = None
    expires_at: datetime | None = None
    part: int = 1
    parts: int = 1
    allocations: tuple[Allocated, ...] = ()


_decode = msgspec.json.Decoder(_Part).decode


class CommandParts:
    """Takes the multi-part events of the log in its order."""

    def __init__(self, complain: Complain) -> None:
        self._complain = complain
        self._open: dict[str, list[tuple[str, _Part]]] = {}

    def take(self, topic: str, state: bytes) -> None:
        """Take the next event; one that cannot be read is somebody else's complaint."""
        try:
            part = _decode(state)
        except msgspec.MsgspecError:
            return
        if part.parts == 1:
            return
        parts = self._open.setdefault(part.origin.command_id, [])
        parts.append((topic, part))
        if len(parts) == part.parts:
            self._close(part.origin.command_id)
        elif len(self._open) > OPEN_MAX:
            self._incomplete(next(iter(self._open)))

    def finish(self) -> None:
        """The log has ended: whatever is still open lacks parts."""
        for command_id in list(self._open):
            self._incomplete(command_id)

    def _incomplete(self, command_id: str) -> None:
        parts = self._open.pop(command_id)
        self._complain(f"command {command_id}", f"{len(parts)} of {parts[0][1].parts} parts are in the log")

    def _close(self, command_id: str) -> None:
        taken = sorted(self._open.pop(command_id), key=lambda entry: entry[1].part)
        parts = [part for _, part in taken]
        wrong = self._numbering(parts) or self._allocations(parts) or _disagreement(taken)
        if wrong:
            self._complain(f"command {command_id}", wrong)

    @staticmethod
    def _numbering(parts: list[_Part]) -> str | None:
        numbers = [(part.part, part.parts) for part in parts]
        if numbers != [(number, len(parts)) for number in range(1, len(parts) + 1)]:
            return f"its parts are numbered {numbers}"
        return None

    @staticmethod
    def _allocations(parts: list[_Part]) -> str | None:
        if len(parts[0].allocations) != len(parts):
            return f"{len(parts)} parts, {len(parts[0].allocations)} allocations"
        for part, allocated in zip(parts, parts[0].allocations, strict=True):
            place = split_stock_stream(part.originator_id)
            quantity = allocated.quantity if part.quantity is None else part.quantity
            if (*place, quantity) != (allocated.sku, allocated.warehouse, allocated.quantity):
                return f"part {part.part} is {quantity} at {part.originator_id}, allocated was {allocated}"
        return None


def _disagreement(taken: list[tuple[str, _Part]]) -> str | None:
    """What must be one thing for all parts. A sweep moves holds of several reservations, for one reason."""
    topics = {topic for topic, _ in taken}
    if len(topics) > 1:
        return f"its parts are {sorted(topics)}"
    parts = [part for _, part in taken]
    if len({(part.order_id, part.kind, part.reason, part.expires_at) for part in parts}) > 1:
        return "its parts differ in order, kind, reason or end"
    if len({part.reservation_id for part in parts}) > 1 and parts[0].reason not in {"EXPIRED", "SHORTAGE"}:
        return "its parts are of several reservations"
    return None
