"""From the bytes of a message to a command within its limits: CloudEvents 1.0, structured mode, JSON.

What the envelope says beyond what is used here (extension attributes) is passed over; ``data`` is as strict
as a body at the HTTP door, and made of the same types.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from enum import IntEnum
from typing import Annotated, Any, Final, Generic, Literal, NamedTuple, TypeVar

import msgspec
from msgspec import Meta
from msgspec.structs import replace

from domain.commands import (
    CancelOrder,
    Command,
    CommitOrder,
    CountStock,
    CreateReservation,
    ReleaseOrder,
    Restock,
    ReturnOrder,
    ShipLine,
    ShipOrder,
    ShipReservation,
)
from domain.values import MAX_LINES, EntityId, OpaqueRef, ShortText, stock_stream
from infra.kafka.topics import INTAKE_TOPICS, MESSAGE_BYTES_MAX
from write_side.api.bodies import Undecodable, refused_body
from write_side.submission import request_digest

T = TypeVar("T")

Timestamp = Annotated[datetime, Meta(tz=True)]


class CloudEvent(msgspec.Struct, Generic[T], frozen=True, gc=False, kw_only=True):
    """The envelope. ``source`` and ``id`` together name the message: a repeat counts once."""

    specversion: Literal["1.0"]
    id: OpaqueRef
    source: OpaqueRef
    type: ShortText
    data: T
    datacontenttype: ShortText | None = None
    subject: ShortText | None = None
    time: Timestamp | None = None
    correlationid: OpaqueRef | None = None
    """Extension attribute: what the message is part of; its own id if it does not say."""


class WarehouseShipment(msgspec.Struct, frozen=True, gc=False, kw_only=True, forbid_unknown_fields=True):
    """Paid units left a warehouse: of the named order, or of one reservation. Exactly one of the two is named."""

    order_id: EntityId | None = None
    reservation_id: EntityId | None = None
    tracking: ShortText | None = None
    lines: Annotated[tuple[ShipLine, ...], Meta(min_length=1, max_length=MAX_LINES)] | None = None

    def __post_init__(self) -> None:
        if (self.order_id is None) == (self.reservation_id is None):
            raise ValueError("say either `order_id` or `reservation_id`")


class Rank(IntEnum):
    """What comes first of what arrives together: an order's life in its order, a delivery before it is counted."""

    MADE = 0
    PAID = 1
    NOT_PAID = 2
    SHIPPED = 3
    CANCELLED = 4
    RETURNED = 5


@dataclass(frozen=True, slots=True)
class Kind:
    """What a topic's messages are. ``operation`` goes into digests: it never changes.

    ``stands``: a refusal is an ordinary answer (it is published); else the message waits, or is a dead letter.
    """

    topic: str
    data: type[msgspec.Struct]
    rank: Rank
    summary: str
    command: Callable[[Any], Command] = field(default=lambda data: data)
    operation: str = ""
    stands: bool = False


def _named(command: CreateReservation) -> CreateReservation:
    """The order's id is its reservation's, unless the message says another."""
    return command if command.reservation_id is not None else replace(command, reservation_id=command.order_id)


def _shipment(data: WarehouseShipment) -> ShipOrder | ShipReservation:
    if data.reservation_id is not None:
        return ShipReservation(reservation_id=data.reservation_id, tracking=data.tracking, lines=data.lines)
    assert data.order_id is not None  # one of the two is named
    return ShipOrder(order_id=data.order_id, tracking=data.tracking, lines=data.lines)


KINDS: Final[tuple[Kind, ...]] = (
    Kind(
        "order.placed",
        CreateReservation,
        Rank.MADE,
        "An order was placed: hold stock for it.",
        _named,
        "reservations.create",  # as at the HTTP door: the same request is the same reservation there
        stands=True,
    ),
    Kind("payment.authorized", CommitOrder, Rank.PAID, "The order has paid: what is held for it is sold."),
    Kind("payment.failed", ReleaseOrder, Rank.NOT_PAID, "The order will not pay: what is held for it is released."),
    Kind(
        "order.cancelled",
        CancelOrder,
        Rank.CANCELLED,
        "The order is off: held units are released, sold ones come back.",
    ),
    Kind("order.shipped", ShipOrder, Rank.SHIPPED, "Sold units have left; without lines all of them."),
    Kind("order.returned", ReturnOrder, Rank.RETURNED, "Shipped units have come back."),
    Kind("warehouse.received", Restock, Rank.MADE, "Units were received for sale."),
    Kind("warehouse.counted", CountStock, Rank.PAID, "Units on hand were counted."),
    Kind(
        "warehouse.shipped",
        WarehouseShipment,
        Rank.SHIPPED,
        "Sold units have left, as the warehouse tells it.",
        _shipment,
    ),
)
"""One for each of the intake's topics."""


class Received(NamedTuple):
    """A message as it came. ``topic`` without the installation's prefix; ``value`` None: it had none."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None


class Unreadable(Exception):
    """A message that can never become a command; ``code`` is that of the problem.

    ``name``: its source and id, where they can be read all the same.
    """

    def __init__(self, code: str, detail: str, name: tuple[str, str] | None = None) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.name = name


class Message(msgspec.Struct, eq=False, gc=False):
    """A message that was understood. ``order_id``: whose messages wake it; of a shipment that names a reservation alone
    that one's id, for most orders have one reservation, of the same id.
    """

    received: Received
    kind: Kind
    source: str
    id: str
    correlation_id: str
    command: Command
    digest: bytes
    order_id: str | None
    lane: str
    """Messages of one lane are decided one after another."""

    @property
    def name(self) -> tuple[str, str]:
        """What a repeat is known by."""
        return self.source, self.id


class _Reader:
    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.decode = msgspec.json.Decoder(CloudEvent[kind.data]).decode  # type: ignore[name-defined]  # made from a table
        self.operation = kind.operation or kind.topic


_decode_envelope: Final = msgspec.json.Decoder(CloudEvent[msgspec.Raw]).decode
_READERS: Final = {kind.topic: _Reader(kind) for kind in KINDS}
assert _READERS.keys() == set(INTAKE_TOPICS)


def read(received: Received) -> Message:
    """Raises Unreadable."""
    value = received.value
    if value is None:
        raise Unreadable("invalid-request", "the message has no value")
    if len(value) > MESSAGE_BYTES_MAX:
        raise Unreadable("payload-too-large", f"{len(value):,} bytes, where {MESSAGE_BYTES_MAX:,} are the limit")
    reader = _READERS[received.topic]
    kind = reader.kind
    try:
        event = reader.decode(value)
    except Undecodable as error:
        name = _check_envelope(received.topic, value)  # of another type, what its data lacks is beside the point
        raise Unreadable("invalid-request", str(refused_body(error)), name) from None
    _check_attributes(received.topic, event)
    command = kind.command(event.data)
    order_id: str | None = getattr(command, "order_id", None) or getattr(command, "reservation_id", None)
    return Message(
        received,
        kind,
        event.source,
        event.id,
        event.correlationid or event.id,
        command,
        request_digest(reader.operation, command),
        order_id,
        order_id or _lane_of(command),
    )


def _check_envelope(topic: str, value: bytes) -> tuple[str, str] | None:
    """The name of a message whose data is wrong, None if the envelope is, too. Raises Unreadable."""
    try:
        event = _decode_envelope(value)
    except Undecodable:
        return None
    _check_attributes(topic, event)
    return event.source, event.id


def _check_attributes(topic: str, event: CloudEvent[Any]) -> None:
    name = event.source, event.id
    if event.type != topic:
        raise Unreadable("invalid-request", f"$.type: `{event.type[:100]}` does not belong on {topic}", name)
    if event.datacontenttype is not None and not _is_json(event.datacontenttype):
        raise Unreadable("unsupported-media-type", "$.datacontenttype: `data` must be `application/json`", name)


def _lane_of(command: Command) -> str:
    """Of a command that names no order. No order has an ``@`` in its id."""
    assert isinstance(command, Restock | CountStock)
    return stock_stream(command.sku, command.warehouse)


def _is_json(media_type: str) -> bool:
    kind = media_type.partition(";")[0].strip().lower()
    return kind == "application/json" or kind.endswith("+json")
