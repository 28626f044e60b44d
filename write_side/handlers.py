"""One handler per command, all wired in one table at the end.

A handler says what its command touches (so that it can be loaded) and decides it: it sees a
:class:`~write_side.decision.Decision` and returns status and document, or raises a DomainError.
"""

from collections.abc import Callable
from datetime import datetime
from typing import Any, Protocol, TypeVar

import msgspec
from msgspec import UNSET

from domain import order as orders
from domain import reservation as reservations
from domain.commands import (
    Adjust,
    CancelOrder,
    CancelReservation,
    ChangePolicy,
    Command,
    CommitOrder,
    CommitReservation,
    CountStock,
    CreateReservation,
    Damage,
    ExpireHolds,
    ExtendReservation,
    OrderCommand,
    PutWarehouse,
    ReleaseOrder,
    ReleaseReservation,
    RelieveShortage,
    Repair,
    ReservationCommand,
    Restock,
    ReturnOrder,
    ReturnReservation,
    ReturnStock,
    ShipOrder,
    ShipReservation,
    StockCommand,
    WriteOff,
)
from domain.errors import DomainError, UnknownWarehouse
from domain.events import Origin
from domain.hold import EXPIRY_ACTOR
from domain.policy import DEFAULT_POLICY
from domain.reservation import Reservation
from domain.stock_item import StockItem
from domain.values import stock_stream
from domain.warehouse import Warehouse
from infra.documents import (
    Buckets,
    LevelDocument,
    LevelFacts,
    ReservationDocument,
    WarehouseDocument,
    level_document,
    reservation_document,
)
from infra.ids import new_id
from write_side.decision import Decision, NotLoaded
from write_side.memory import Memory


class OrderDocument(msgspec.Struct, frozen=True, gc=False):
    """What is kept of a command on an order: nobody but its sender's repeat reads it."""

    order_id: str
    reservations: list[str]


Document = ReservationDocument | LevelDocument | WarehouseDocument | OrderDocument | None
Result = tuple[int, Document]

C_contra = TypeVar("C_contra", bound=Command, contravariant=True)


class Footprint(msgspec.Struct, frozen=True, gc=False):
    """What must be loaded before a command can be decided.

    ``certain``: memory alone may decide it, nothing is looked up that only the log's lock can settle.
    ``complete``: memory knows all that will be touched.
    """

    streams: tuple[str, ...] = ()
    reservation_id: str | None = None
    skus: tuple[str, ...] = ()
    order_id: str | None = None
    certain: bool = True
    complete: bool = True


NOTHING = Footprint()


class Handler(Protocol[C_contra]):
    """How one command is loaded for and decided."""

    operation: str

    def footprint(self, command: C_contra, memory: Memory) -> Footprint:
        """What the command touches, as far as memory tells."""

    def decide(self, command: C_contra, digest: str, decision: Decision, origin: Origin) -> Result:
        """Status and document of the answer. Raises DomainError (refused), NotLoaded, SweepNeeded."""


# Reservations ----------------------------------------------------------------------------------------


class CreateHandler:
    """Hold stock for an order."""

    operation = "reservation.create"

    def footprint(self, command: CreateReservation, memory: Memory) -> Footprint:
        """The named items, and for lines without a warehouse whatever the SKU's places turn out to be."""
        streams, skus, complete = [], [], True
        for line in command.lines:
            if line.warehouse is not None:
                streams.append(stock_stream(line.sku, line.warehouse))
            else:
                skus.append(line.sku)
                codes = memory.places.use(line.sku)
                complete = complete and codes is not None
                streams += [stock_stream(line.sku, code) for code in codes or ()]
        known = memory.reservations.use(command.reservation_id) if command.reservation_id else None
        if known is not None:
            streams += known.streams
        certain = not skus and known is None
        return Footprint(tuple(streams), command.reservation_id, tuple(skus), certain=certain, complete=complete)

    def decide(self, command: CreateReservation, digest: str, decision: Decision, origin: Origin) -> Result:
        """201 and the reservation; 200 for the same request again while it lives."""
        if command.reservation_id is not None:
            existing = self._existing(command, command.reservation_id, decision)
            if existing is not None:
                reservations.refuse_unless_repeat(existing, digest, decision.now)
                return 200, _reservation(existing, decision)
        try:
            created = reservations.create(
                command, command.reservation_id or new_id(), digest, decision, origin, decision.now, new_id
            )
        except DomainError:
            if command.reservation_id is not None and decision.on_memory_alone:
                # Had it been made before, this would be a repeat and no refusal: only the log can tell.
                raise NotLoaded(reservation_id=command.reservation_id) from None
            raise
        decision.created(created)
        return 201, _reservation(created, decision)

    @staticmethod
    def _existing(command: CreateReservation, reservation_id: str, decision: Decision) -> Reservation | None:
        """The reservation of this id. On memory alone None is a guess, which the index refuses if it is wrong."""
        if not decision.on_memory_alone:
            return decision.find_reservation(reservation_id)
        if decision.knows(reservation_id):
            raise NotLoaded(reservation_id=reservation_id)
        for line in command.lines:
            if line.warehouse is not None and reservation_id in decision.stock_item(line.sku, line.warehouse).holds:
                raise NotLoaded(reservation_id=reservation_id)
        return None


class OnReservation:
    """A command on an existing reservation."""

    def __init__(self, operation: str, act: Callable[[Reservation, Any, Origin, datetime], None]) -> None:
        self.operation = operation
        self._act = act

    def footprint(self, command: ReservationCommand, memory: Memory) -> Footprint:
        """The reservation's items, once its header is known."""
        reservation_id = command.reservation_id
        known = memory.reservations.use(reservation_id)
        if known is None:
            return Footprint(reservation_id=reservation_id, certain=False, complete=False)
        items = [memory.items.use(stream) for stream in known.streams]
        all_open = all(item is not None and reservation_id in item.holds for item in items)
        return Footprint(known.streams, reservation_id, certain=all_open)

    def decide(self, command: ReservationCommand, digest: str, decision: Decision, origin: Origin) -> Result:
        """200 and the reservation, also for a repeat that had nothing left to do."""
        del digest
        reservation = decision.reservation(command.reservation_id)
        self._act(reservation, command, origin, decision.now)
        return 200, _reservation(decision.refresh(reservation), decision)


# Orders ----------------------------------------------------------------------------------------------


class OnOrder:
    """A command on every reservation of an order, all or nothing."""

    def __init__(self, operation: str, plan: orders.Plan) -> None:
        self.operation = operation
        self._plan = plan

    def footprint(self, command: OrderCommand, memory: Memory) -> Footprint:
        """The items of its reservations, once those are known."""
        order_id = command.order_id
        streams: list[str] = []
        certain = True
        for reservation_id in memory.orders.use(order_id) or ():
            known = memory.reservations.use(reservation_id)
            if known is None:
                return Footprint(order_id=order_id, certain=False, complete=False)
            streams += known.streams
            items = [memory.items.use(stream) for stream in known.streams]
            certain = certain and all(item is not None and reservation_id in item.holds for item in items)
        if not streams:
            return Footprint(order_id=order_id, certain=False, complete=False)
        return Footprint(tuple(streams), order_id=order_id, certain=certain)

    def decide(self, command: OrderCommand, digest: str, decision: Decision, origin: Origin) -> Result:
        """200 and the ids of the order's reservations, also for a repeat that had nothing left to do."""
        del digest
        found = decision.reservations_of(command.order_id)
        orders.perform(self._plan(found, command, decision.now), origin, new_id)
        return 200, OrderDocument(command.order_id, [each.reservation_id for each in found])


def _reservation(reservation: Reservation, decision: Decision) -> ReservationDocument | None:
    if not decision.documents_wanted:
        return None
    return reservation_document(reservation.header, reservation.holds, reservation.moment(decision.now))


# Stock -----------------------------------------------------------------------------------------------


class OnStock:
    """A command on one stock item that must have been registered."""

    def __init__(self, operation: str, act: Callable[[StockItem, Any, Origin, datetime], None]) -> None:
        self.operation = operation
        self._act = act

    def footprint(self, command: StockCommand, memory: Memory) -> Footprint:
        """The one item."""
        del memory
        return Footprint((stock_stream(command.sku, command.warehouse),))

    def decide(self, command: StockCommand, digest: str, decision: Decision, origin: Origin) -> Result:
        """200 and the level."""
        del digest
        _existing_warehouse(command.warehouse, decision)
        item = decision.stock_item(command.sku, command.warehouse)
        item.refuse_other_version(command.expected_version)
        item.refuse_if_unregistered()
        self._act(item, command, origin, decision.now)
        _relieve(item, origin, decision)
        return 200, _level(item, decision)


class RestockHandler:
    """Receive stock; the first receipt registers the item."""

    operation = "stock.restock"

    def footprint(self, command: Restock, memory: Memory) -> Footprint:
        """The one item."""
        del memory
        return Footprint((stock_stream(command.sku, command.warehouse),))

    def decide(self, command: Restock, digest: str, decision: Decision, origin: Origin) -> Result:
        """200 and the level."""
        del digest
        warehouse = _existing_warehouse(command.warehouse, decision)
        item = decision.stock_item(command.sku, command.warehouse)
        item.refuse_other_version(command.expected_version)
        if not item.version:
            policy = warehouse.details.policy or DEFAULT_POLICY
            item.refuse_above_maximum(command.quantity, policy)  # before the first event, for it cannot be taken back
            item.register(policy, origin, decision.now)
        item.restock(
            command.quantity,
            origin,
            decision.now,
            unit_cost=command.unit_cost,
            supplier=command.supplier,
            lot=command.lot,
            expires_on=command.expires_on,
            received_on=command.received_on,
        )
        return 200, _level(item, decision)


def _existing_warehouse(code: str, decision: Decision) -> Warehouse:
    warehouse = decision.warehouse(code)
    if warehouse is None:
        raise UnknownWarehouse(code)
    return warehouse


def _relieve(item: StockItem, origin: Origin, decision: Decision) -> None:
    """What the world took away may have been promised: break the newest unpaid promises if the policy says so."""
    if item.figures.policy.on_shortage == "keep":
        return
    own = Origin(new_id(), EXPIRY_ACTOR, origin.correlation_id, causation_id=origin.command_id)
    released = reservations.relieve_shortage(item, reservations.MAX_RELEASES, own, decision.now)
    if released == reservations.MAX_RELEASES:
        decision.follow_ups.append(RelieveShortage(stream=item.id))


def _level(item: StockItem, decision: Decision) -> LevelDocument | None:
    if not decision.documents_wanted:
        return None
    return level_document(item.sku, item.warehouse, level_facts(item), item.due_units(decision.now))


def level_facts(item: StockItem) -> LevelFacts:
    """The figures of an item as a level document needs them."""
    f = item.figures
    return LevelFacts(
        buckets=Buckets(
            on_hand=f.on_hand,
            reserved=f.reserved,
            committed=f.committed,
            damaged=f.damaged,
            quarantined=f.quarantined,
            in_transit=f.in_transit,
            incoming=f.incoming,
        ),
        policy=f.policy,
        sold=f.sold,
        returned=f.returned,
        lost=f.lost,
        discontinued=f.discontinued,
        version=item.version,
        as_of=item.modified_on,
        created_at=item.created_on,
        last_movement_at=f.last_movement_at,
        last_restocked_at=f.last_restocked_at,
        last_sold_at=f.last_sold_at,
        last_counted_at=f.last_counted_at,
    )


# Warehouses ------------------------------------------------------------------------------------------


class PutWarehouseHandler:
    """Create a warehouse or change what is named of it."""

    operation = "warehouse.put"

    def footprint(self, command: PutWarehouse, memory: Memory) -> Footprint:
        """Nothing but the warehouses, which are always in memory."""
        del command, memory
        return Footprint(certain=False)

    def decide(self, command: PutWarehouse, digest: str, decision: Decision, origin: Origin) -> Result:
        """201 if it is new, else 200, and the warehouse."""
        del digest
        warehouse = decision.warehouse_to_put(command.code)
        status = 200 if warehouse.version else 201
        named = msgspec.structs.asdict(command)
        changes = {name: named[name] for name in _DETAILS if named[name] is not UNSET}
        warehouse.put(changes, origin, decision.now, only_create=command.only_create)
        return status, warehouse_document(warehouse)


_DETAILS = ("name", "address", "timezone", "latitude", "longitude", "priority", "capacity", "status", "policy")


def warehouse_document(warehouse: Warehouse) -> WarehouseDocument:
    """The warehouse as the contract shows it."""
    details = msgspec.structs.asdict(warehouse.details)
    return WarehouseDocument(
        code=warehouse.code,
        version=warehouse.version,
        created_at=warehouse.created_on,
        updated_at=warehouse.modified_on,
        **details,
    )


# The service's own -----------------------------------------------------------------------------------


class OnStream:
    """A command of the service's own on one item; repeated, it finds nothing left to do."""

    def __init__(self, operation: str, act: Callable[[StockItem, int, Origin, datetime], int]) -> None:
        self.operation = operation
        self._act = act

    def footprint(self, command: ExpireHolds | RelieveShortage, memory: Memory) -> Footprint:
        """The one item."""
        del memory
        return Footprint((command.stream,))

    def decide(self, command: ExpireHolds | RelieveShortage, digest: str, decision: Decision, origin: Origin) -> Result:
        """204; more of the same follows as long as there is enough for a full round."""
        del digest
        item = decision.item_of_stream(command.stream)
        released = self._act(item, command.limit, origin, decision.now)
        if not released and decision.on_memory_alone:
            # Nothing is appended, so nothing would tell that memory is behind: what is due may be a neighbour's.
            raise NotLoaded([command.stream])
        if isinstance(command, RelieveShortage) and released == command.limit:
            decision.follow_ups.append(command)
        return 204, None


def _adjust(item: StockItem, command: Adjust, origin: Origin, now: datetime) -> None:
    item.adjust(command.delta, command.reason, origin, now)


def _count(item: StockItem, command: CountStock, origin: Origin, now: datetime) -> None:
    item.count(command.counted, origin, now)


def _damage(item: StockItem, command: Damage, origin: Origin, now: datetime) -> None:
    item.damage(command.quantity, origin, now)


def _repair(item: StockItem, command: Repair, origin: Origin, now: datetime) -> None:
    item.repair(command.quantity, origin, now)


def _write_off(item: StockItem, command: WriteOff, origin: Origin, now: datetime) -> None:
    item.write_off(command.quantity, origin, now)


def _take_back(item: StockItem, command: ReturnStock, origin: Origin, now: datetime) -> None:
    item.take_back(command.quantity, command.condition, origin, now, order_id=command.order_id)


def _change_policy(item: StockItem, command: ChangePolicy, origin: Origin, now: datetime) -> None:
    item.change_policy(command.patch, origin, now)


HANDLERS: dict[type[Command], Handler[Any]] = {
    CreateReservation: CreateHandler(),
    CommitReservation: OnReservation("reservation.commit", reservations.commit),
    ReleaseReservation: OnReservation("reservation.release", reservations.release),
    ExtendReservation: OnReservation("reservation.extend", reservations.extend),
    ShipReservation: OnReservation("reservation.ship", reservations.ship),
    CancelReservation: OnReservation("reservation.cancel", reservations.cancel),
    ReturnReservation: OnReservation("reservation.return", reservations.take_back),
    CommitOrder: OnOrder("order.commit", orders.commit),
    ReleaseOrder: OnOrder("order.release", orders.release),
    CancelOrder: OnOrder("order.cancel", orders.cancel),
    ShipOrder: OnOrder("order.ship", orders.ship),
    ReturnOrder: OnOrder("order.return", orders.take_back),
    Restock: RestockHandler(),
    Adjust: OnStock("stock.adjust", _adjust),
    CountStock: OnStock("stock.count", _count),
    Damage: OnStock("stock.damage", _damage),
    Repair: OnStock("stock.repair", _repair),
    WriteOff: OnStock("stock.write-off", _write_off),
    ReturnStock: OnStock("stock.return", _take_back),
    ChangePolicy: OnStock("stock.policy", _change_policy),
    PutWarehouse: PutWarehouseHandler(),
    ExpireHolds: OnStream("stock.expire", reservations.expire_due),
    RelieveShortage: OnStream("stock.relieve", reservations.relieve_shortage),
}
