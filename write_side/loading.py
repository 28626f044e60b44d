"""Bringing memory to where the log is: ahead of a batch, outside the lock, or under it."""

from collections.abc import Iterable, Sequence

from infra.event_store.port import EventStore, Loaded, Needs
from write_side.deciding import Work
from write_side.decision import Decision, NotLoaded
from write_side.handlers import Footprint
from write_side.memory import Memory
from write_side.store_clock import StoreClock


class Loader:
    """Loads what commands touch from ``store`` into ``memory``, and hears what time it is there."""

    def __init__(self, store: EventStore, memory: Memory, clock: StoreClock) -> None:
        self._store = store
        self._memory = memory
        self._clock = clock

    def lacks(self, footprint: Footprint) -> bool:
        """Whether memory misses something that a command with this footprint touches."""
        items = self._memory.items
        for stream in footprint.streams:  # a generator would cost more than what it looks up
            if stream not in items:
                return True
        return not footprint.complete

    def can_tell(self, footprint: Footprint) -> bool:
        """Whether memory alone may decide a command with this footprint, and has all that it touches."""
        return footprint.certain and not self.lacks(footprint)

    async def read(self, needs: Needs) -> Loaded:
        """Load outside the lock. Raises StoreUnavailable."""
        loaded = await self._store.read(needs, self._memory.warehouses_changed)
        missing = self._memory.take_in(loaded, needs, locked=False)
        if missing:
            await self._read_warehouses(missing)
        self._memory.warehouses_seen(loaded)
        self._clock.heard(loaded.now)
        return loaded

    async def _read_warehouses(self, streams: Sequence[str]) -> None:
        needs = self._warehouse_needs(streams)
        loaded = await self._store.read(needs, self._memory.warehouses_changed)
        self._memory.take_in(loaded, needs, locked=False)

    def _warehouse_needs(self, streams: Sequence[str]) -> Needs:
        versions = {warehouse.id: warehouse.version for warehouse in self._memory.warehouses.values()}
        return Needs(cached={stream: versions[stream] for stream in streams})

    def add_needs(self, needs: Needs, work: Work, *, locked: bool) -> None:
        """Add what ``work`` needs: under the lock everything that it reads, before only what memory lacks."""
        footprint = work.footprint
        for stream in footprint.streams:
            if stream not in self._memory.items:
                needs.cold.add(stream)
            elif locked:
                needs.cached[stream] = self._memory.version(stream)
        if footprint.reservation_id is not None and (locked or not footprint.complete):
            needs.reservations.add(footprint.reservation_id)
        if footprint.order_id is not None and (locked or not footprint.complete):
            needs.orders.add(footprint.order_id)
        needs.skus.update(footprint.skus)
        if locked and not work.internal:
            needs.keys.add((work.submission.scope, work.submission.key))

    async def take_in(self, loaded: Loaded, needs: Needs) -> None:
        """Bring memory to what was loaded under the lock."""
        missing = self._memory.take_in(loaded, needs, locked=True)
        if missing:
            more = self._warehouse_needs(missing)
            self._memory.take_in(await self._store.load_more(more, self._memory.warehouses_changed), more, locked=True)
        self._memory.warehouses_seen(loaded)

    async def load_missing(self, work: Work, missing: NotLoaded, decision: Decision) -> None:
        """Load, in the open transaction, what ``work`` turned out to need."""
        needs = self._needs_of(missing.streams, decision)
        if missing.reservation_id is not None:
            needs.reservations.add(missing.reservation_id)
        if missing.order_id is not None:
            needs.orders.add(missing.order_id)
        needs.skus.update(work.footprint.skus)
        await self._load_more(needs, decision)
        work.footprint = work.handler.footprint(work.submission.command, self._memory)
        places = self._needs_of(work.footprint.streams, decision)
        if places:
            await self._load_more(places, decision)

    def _needs_of(self, streams: Iterable[str], decision: Decision) -> Needs:
        """What brings these streams to where the log is."""
        needs = Needs()
        for stream in streams:
            if stream not in self._memory.items:
                needs.cold.add(stream)
            elif not decision.is_current(stream):
                needs.cached[stream] = self._memory.version(stream)
        return needs

    async def _load_more(self, needs: Needs, decision: Decision) -> None:
        more = await self._store.load_more(needs, self._memory.warehouses_changed)
        self._memory.take_in(more, needs, locked=True)
        decision.extend(more, (*needs.cached, *needs.cold))
