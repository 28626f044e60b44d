"""A hold: what one reservation has of one stock item, and how events move it on.

``Hold`` is the one shape for the aggregate's open holds and for the write-side index, so that the
index row after an event is by construction what the aggregate folded.
"""

from collections.abc import Iterable
from datetime import datetime

import msgspec
from msgspec.structs import replace

from domain.events import Committed, Extended, HoldEvent, Released, Reserved, Shipped
from domain.values import Bucket, ReleaseReason, ReservationStatus

EXPIRY_ACTOR = "stockhold"
"""Who releases what has expired: the service itself, whoever's decision came by first."""


class Shipment(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    quantity: int
    shipped_at: datetime
    tracking: str | None = None


class Hold(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """Units of one stock item for one reservation, by what became of them.

    ``quantity`` = active + committed + shipped + released, always; ``returned`` of the shipped came back.
    ``version`` is the stock item's after the last event that touched the hold; ``part`` is the hold's place in
    the order in which its reservation was allocated.
    """

    reservation_id: str
    order_id: str
    sku: str
    warehouse: str
    version: int
    part: int = 1
    active: int = 0
    committed: int = 0
    shipped: int = 0
    returned: int = 0
    released: int = 0
    expires_at: datetime | None = None
    expired: bool = False
    cancelled: bool = False
    committed_at: datetime | None = None
    shipped_at: datetime | None = None
    released_at: datetime | None = None
    released_by: str | None = None
    release_reason: ReleaseReason | None = None
    shipments: tuple[Shipment, ...] = ()

    @property
    def quantity(self) -> int:
        return self.active + self.committed + self.shipped + self.released

    @property
    def is_open(self) -> bool:
        return self.active > 0 or self.committed > 0

    def is_due(self, now: datetime) -> bool:
        """Whether the active part has expired, swept or not: a hold ends *at* its instant."""
        return self.active > 0 and self.expires_at is not None and self.expires_at <= now

    @property
    def status(self) -> ReservationStatus:
        return overall_status((self,))

    def commit(self, quantity: int, version: int, at: datetime) -> "Hold":
        return replace(
            self,
            active=self.active - quantity,
            committed=self.committed + quantity,
            version=version,
            committed_at=at,
        )

    def release(
        self, quantity: int, bucket: Bucket, reason: ReleaseReason, actor: str, version: int, at: datetime
    ) -> "Hold":
        """An expired hold was released at its own instant, however late the event was written.

        What has been cancelled since that instant was the last release all the same: when the sweeper comes by
        makes no difference to any reader.
        """
        expired = reason is ReleaseReason.EXPIRED
        paid = bucket is Bucket.COMMITTED
        moved = replace(
            self,
            active=self.active if paid else self.active - quantity,
            committed=self.committed - quantity if paid else self.committed,
            released=self.released + quantity,
            expired=self.expired or expired,
            cancelled=self.cancelled or paid,
            version=version,
        )
        released_at = self.expires_at if expired else at
        if expired and self.released_at and released_at and self.released_at >= released_at:
            return moved
        return replace(moved, released_at=released_at, released_by=actor, release_reason=reason)

    def extend(self, expires_at: datetime | None, version: int) -> "Hold":
        return replace(self, expires_at=expires_at, version=version)

    def ship(self, quantity: int, tracking: str | None, version: int, at: datetime) -> "Hold":
        return replace(
            self,
            committed=self.committed - quantity,
            shipped=self.shipped + quantity,
            version=version,
            shipped_at=at,
            shipments=(*self.shipments, Shipment(quantity=quantity, shipped_at=at, tracking=tracking)),
        )

    def take_back(self, quantity: int, version: int) -> "Hold":
        return replace(self, returned=self.returned + quantity, version=version)

    def as_seen(self, now: datetime) -> "Hold":
        """The hold with a due part shown as expired, as every read shows it."""
        if not self.is_due(now):
            return self
        return self.release(self.active, Bucket.RESERVED, ReleaseReason.EXPIRED, EXPIRY_ACTOR, self.version, now)


def overall_status(holds: Iterable[Hold]) -> ReservationStatus:
    """The status of one hold or of a whole reservation: the first that fits, as the HTTP contract lists them."""
    active = committed = shipped = returned = 0
    expired = cancelled = False
    for hold in holds:
        active += hold.active
        committed += hold.committed
        shipped += hold.shipped
        returned += hold.returned
        expired = expired or hold.expired
        cancelled = cancelled or hold.cancelled
    if active:
        return ReservationStatus.PARTIALLY_COMMITTED if committed else ReservationStatus.ACTIVE
    if committed:
        return ReservationStatus.PARTIALLY_SHIPPED if shipped else ReservationStatus.COMMITTED
    if shipped:
        return ReservationStatus.RETURNED if returned == shipped else ReservationStatus.SHIPPED
    if expired:
        return ReservationStatus.EXPIRED
    return ReservationStatus.CANCELLED if cancelled else ReservationStatus.RELEASED


def fold_hold(hold: Hold | None, event: HoldEvent, sku: str, warehouse: str) -> Hold:
    """``hold`` after ``event``; only ``Reserved`` finds none before it."""
    version, at = event.originator_version, event.timestamp
    if isinstance(event, Reserved):
        assert hold is None, f"{event.reservation_id} holds {sku} at {warehouse} already"
        return Hold(
            reservation_id=event.reservation_id,
            order_id=event.order_id,
            sku=sku,
            warehouse=warehouse,
            version=version,
            part=event.part,
            active=event.quantity,
            expires_at=event.expires_at,
        )
    assert hold is not None, f"{event.reservation_id} holds no {sku} at {warehouse}"
    match event:
        case Committed():
            return hold.commit(event.quantity, version, at)
        case Released():
            return hold.release(event.quantity, event.bucket, event.reason, event.origin.actor, version, at)
        case Extended():
            return hold.extend(event.expires_at, version)
        case Shipped():
            return hold.ship(event.quantity, event.tracking, version, at)
        case _:
            raise TypeError(f"{type(event).__name__} does nothing to a hold")
