"""Any order of commands, processes and mishaps, against the model; after every step everything is looked at."""

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from domain.commands import Command, CommitReservation, ExpireHolds, PutWarehouse, Restock
from domain.policy import Policy
from infra.event_store.port import Conflict, LockTimeout, StoreUnavailable
from tests.simulation.books import Booking, Place
from tests.simulation.commands import CODES, SKUS, TICKS, Wishes
from tests.simulation.ledger import Ledger
from tests.simulation.model import Model
from tests.simulation.worlds import World
from tests.support import eventually_async
from tests.support_audit import audit, check_index
from tests.support_write_side import Interposed, ask, code_of, gather_answers, nothing, order, post, said
from write_side.executor import CommandExecutor
from write_side.submission import Answer

T = TypeVar("T")

SMALL = {"snapshot_every": 4, "identity_map_items": 3, "known_reservations": 3, "lock_first_batches": 3}
"""A memory that forgets all the time, and a process that soon trusts it again."""

APPENDING = ("append", "append_unseen")
MISHAPS: list[Callable[[Interposed], None]] = [
    lambda _: None,
    lambda _: None,
    lambda store: store.fail(StoreUnavailable("cut before the commit"), *APPENDING),
    lambda store: store.fail(StoreUnavailable("cut after the commit"), *APPENDING, applied=True),
    lambda store: store.fail(StoreUnavailable("cut while it loads"), "lock_and_load"),
    lambda store: store.fail(LockTimeout("a writer hangs"), "lock_and_load", "append_unseen"),
    lambda store: store.fail(Conflict("a key was taken", stale=False), "append_unseen"),
    lambda store: store.fail(Conflict("memory was stale", stale=True), "append_unseen"),
]


@dataclass
class Sent:
    """A command under its key, and its answer when it has come."""

    key: str
    command: Command
    answered: asyncio.Future[Answer]


class ExecutorMachine(RuleBasedStateMachine):
    """Two executors on one log. A test says in a subclass where: :meth:`open_world`."""

    world: World

    def open_world(self, *, optimistic: bool) -> World:
        """A world with nothing in it."""
        raise AssertionError("a subclass says where")

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.executors: list[CommandExecutor] = []
        self.is_open = False

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(asyncio.wait_for(work, 60))

    @initialize(optimistic=st.booleans())
    def open_shop(self, optimistic: bool) -> None:
        self.world = self.open_world(optimistic=optimistic)
        self.is_open = True
        self.model = Model(self.world.start)
        self.ledger = Ledger()
        self.asked: dict[str, Command] = {}
        self.recorded: dict[str, tuple[int, bytes]] = {}
        self.refused = 0
        self.executors = [self.run(self.world.cluster.executor(**SMALL)) for _ in range(2)]
        policies = [
            Policy(hold_ttl_s=self.world.ttl_s(3)),
            Policy(hold_ttl_s=self.world.ttl_s(2), on_shortage="release_newest_unpaid", backorder_limit=2),
        ]
        for n, code in enumerate(CODES[:2]):
            self.send(self.executors[0], PutWarehouse(code=code, priority=2 - n, policy=policies[n]))
            self.send(self.executors[n], *(Restock(sku=sku, warehouse=code, quantity=12) for sku in SKUS))
        baskets: list[list[tuple[Any, ...]]] = [[("A", 3), ("B", 2, "W1")], [("A", 15), ("B", 1)], [("B", 4, "W2")]]
        for n, lines in enumerate(baskets):
            self.send(self.executors[0], order(f"r{n}", *lines, ttl_s=self.world.ttl_s(2 * n + 1)))
        self.send(self.executors[1], CommitReservation(reservation_id="r1"))

    # Sending -------------------------------------------------------------------------------------

    def post(self, executor: CommandExecutor, command: Command, key: str | None = None) -> Sent:
        key = key or f"k{len(self.asked)}"
        self.asked.setdefault(key, command)
        return Sent(key, command, post(executor, command, key))

    def send(self, executor: CommandExecutor, *commands: Command) -> None:
        """At the same time; come back when all are answered, as they should be."""

        async def exchange() -> list[Sent]:
            sent = [self.post(executor, command) for command in commands]
            await gather_answers(one.answered for one in sent)
            return sent

        self.settle(self.run(exchange()))

    def settle(self, sent: Iterable[Sent]) -> None:
        """Let the model decide what was recorded, in the order of the log; every answer must be what was recorded."""
        fresh = self.take_recorded()
        first: set[str] = set()
        for one in sent:
            answer = one.answered.result()
            if one.command != self.asked[one.key]:
                assert code_of(answer) == "idempotency-key-reused", answer
                continue
            assert (answer.status, answer.body) == self.recorded[one.key], one
            if one.key in fresh and one.key not in first and not answer.replayed:
                first.add(one.key)
            else:
                assert answer.replayed, one

    def take_recorded(self) -> set[str]:
        """Keys of the outcomes that are new in the log, each checked against what the model says."""
        fresh = self.world.recorded(len(self.recorded))
        for key, status, body in fresh:
            assert key not in self.recorded, f"{key} was decided twice"
            self.recorded[key] = (status, body)
            document = said(Answer(status, body))
            wanted, facts = self.model.decide(self.asked[key], document.get("reservation_id"))
            assert status == wanted, (self.asked[key], document, facts)
            if not self.world.exact:  # which of two releases was the last, the model's clock cannot tell
                facts.pop("release_reason", None)
            self.assert_told(document, facts, key)
            self.refused += status >= 400
        return {key for key, _, _ in fresh}

    def assert_told(self, document: Any, facts: Any, where: str) -> None:
        """Whether the answer says all that the model says, times as near as this world can tell them."""
        if isinstance(facts, dict):
            assert isinstance(document, dict), where
            for name, fact in facts.items():
                self.assert_told(document.get(name), fact, f"{where}.{name}")
        elif isinstance(facts, list):
            assert len(document) == len(facts), (where, document, facts)
            for n, fact in enumerate(facts):
                self.assert_told(document[n], fact, f"{where}[{n}]")
        elif isinstance(facts, datetime):
            assert document is not None, (where, facts)
            assert abs(datetime.fromisoformat(document) - facts) <= self.world.tolerance, (where, document, facts)
        else:
            assert document == facts, (where, document, facts)

    def draw(self, data: st.DataObject) -> tuple[CommandExecutor, Wishes]:
        return data.draw(st.sampled_from(self.executors)), Wishes(data, self.model, self.world)

    # One command at a time -----------------------------------------------------------------------

    @rule(data=st.data())
    def somebody_asks(self, data: st.DataObject) -> None:
        executor, wishes = self.draw(data)
        self.send(executor, wishes.any())

    @rule(data=st.data())
    def somebody_compares_and_sets(self, data: st.DataObject) -> None:
        executor, wishes = self.draw(data)
        self.send(executor, wishes.guarded())

    @rule(data=st.data())
    def stock_arrives(self, data: st.DataObject) -> None:
        executor, wishes = self.draw(data)
        self.send(executor, wishes.restock())

    @rule(data=st.data())
    def a_customer_orders(self, data: st.DataObject) -> None:
        executor, wishes = self.draw(data)
        self.send(executor, wishes.create())

    @rule(data=st.data())
    def a_customer_pays(self, data: st.DataObject) -> None:
        executor, wishes = self.draw(data)
        self.send(executor, wishes.commit())

    @rule(data=st.data())
    def a_parcel_leaves(self, data: st.DataObject) -> None:
        executor, wishes = self.draw(data)
        self.send(executor, wishes.ship())

    @rule(data=st.data())
    def somebody_thinks_again(self, data: st.DataObject) -> None:
        executor, wishes = self.draw(data)
        kinds = [Wishes.release, Wishes.extend, Wishes.cancel, Wishes.bring_back]
        self.send(executor, data.draw(st.sampled_from(kinds))(wishes))

    @rule(data=st.data())
    def the_world_has_the_last_word(self, data: st.DataObject) -> None:
        executor, wishes = self.draw(data)
        self.send(executor, wishes.fall_short() if data.draw(st.booleans()) else wishes.correct())

    @rule(data=st.data())
    def a_policy_is_changed(self, data: st.DataObject) -> None:
        executor, wishes = self.draw(data)
        self.send(executor, wishes.change_policy())

    # Repeating -----------------------------------------------------------------------------------

    @rule(data=st.data())
    def somebody_repeats(self, data: st.DataObject) -> None:
        executor, _ = self.draw(data)
        key = data.draw(st.sampled_from(sorted(self.recorded)))
        self.repeat(executor, key, self.asked[key])

    @rule(data=st.data())
    def somebody_uses_a_key_for_something_else(self, data: st.DataObject) -> None:
        executor, wishes = self.draw(data)
        self.repeat(executor, data.draw(st.sampled_from(sorted(self.recorded))), wishes.any())

    def repeat(self, executor: CommandExecutor, key: str, command: Command) -> None:
        """Nothing may come of it but an answer."""

        async def exchange() -> Sent:
            sent = self.post(executor, command, key)
            await gather_answers([sent.answered])
            return sent

        before = self.world.rows(self.ledger.size)
        self.settle([self.run(exchange())])
        assert self.world.rows(self.ledger.size) == before

    # Many at once, and mishaps -------------------------------------------------------------------

    @rule(data=st.data(), count=st.integers(2, 5), mishap=st.sampled_from(MISHAPS))
    def many_ask_at_once(self, data: st.DataObject, count: int, mishap: Callable[[Interposed], None]) -> None:
        """Both processes; one of the commands goes to both under one key; a store may fail meanwhile."""
        executor, wishes = self.draw(data)
        store = self.world.cluster.store_of(executor)
        mishap(store)

        async def exchange() -> list[Sent]:
            sent = [self.post(data.draw(st.sampled_from(self.executors)), wishes.any()) for _ in range(count)]
            twice = sent[0]
            sent += [self.post(one, twice.command, twice.key) for one in self.executors]
            await gather_answers(one.answered for one in sent)
            return sent

        sent = self.run(exchange())
        store.forgive()
        self.settle(sent)

    @rule(data=st.data(), count=st.integers(1, 3), committed=st.booleans())
    def a_process_is_killed(self, data: st.DataObject, count: int, committed: bool) -> None:
        """Before its batch is appended, or when it is committed and nobody has been told; then all ask again."""
        doomed, wishes = self.draw(data)
        cluster = self.world.cluster
        commands = [wishes.any() for _ in range(count)]
        sent = self.run(self.kill_at_work(doomed, commands, committed=committed))
        self.take_recorded()
        self.executors[self.executors.index(doomed)] = self.run(cluster.executor(**SMALL))

        async def ask_again() -> list[Sent]:
            again = [self.post(self.executors[0], one.command, one.key) for one in sent]
            await gather_answers(one.answered for one in again)
            return again

        self.settle(self.run(ask_again()))

    async def kill_at_work(
        self, executor: CommandExecutor, commands: Sequence[Command], *, committed: bool
    ) -> list[Sent]:
        store, known = self.world.cluster.store_of(executor), len(self.recorded)
        hold = store.hold_answers if committed else store.hold
        hold("append", "append_unseen")
        before = store.commits
        sent = [self.post(executor, command) for command in commands]
        await eventually_async(lambda: store.commits > before, what="a batch is on its way")
        if committed:
            await eventually_async(lambda: len(self.world.recorded(known)) > 0, what="it is in the log")
        await self.world.cluster.crash(executor)
        assert not any(one.answered.done() for one in sent)
        return sent

    @rule(data=st.data())
    def a_process_starts_anew(self, data: st.DataObject) -> None:
        executor, _ = self.draw(data)
        self.run(self.world.cluster.drain(executor))
        self.executors[self.executors.index(executor)] = self.run(self.world.cluster.executor(**SMALL))

    # Time ----------------------------------------------------------------------------------------

    @rule(ticks=TICKS, unnoticed=st.booleans())
    def time_passes(self, ticks: int, unnoticed: bool) -> None:
        self.let_pass(timedelta(seconds=self.world.lapse_s(ticks)), unnoticed=unnoticed)

    @precondition(lambda self: self.world.exact and self.model.next_end() is not None)
    @rule(data=st.data(), short_of=st.sampled_from([timedelta(), timedelta(microseconds=1)]))
    def a_customer_pays_at_the_last_moment_or_too_late(self, data: st.DataObject, short_of: timedelta) -> None:
        """A hold ends *at* its instant, and not before it."""
        executor, _ = self.draw(data)
        end = self.model.next_end()
        assert end is not None
        waiting = [rid for rid, b in self.model.bookings.items() if b.ends == end and any(h.active for h in b.held)]
        if end - short_of > self.model.now:
            self.let_pass(end - short_of - self.model.now, unnoticed=False)
        self.send(executor, CommitReservation(reservation_id=waiting[0]))

    def let_pass(self, by: timedelta, *, unnoticed: bool) -> None:
        self.world.elapse(by, unnoticed=unnoticed)
        self.model.let_pass(by)

    @rule(data=st.data(), limit=st.integers(1, 4))
    def the_sweeper_comes_by(self, data: st.DataObject, limit: int) -> None:
        """It changes nothing that anybody can see, except that what is due is released."""
        executor, _ = self.draw(data)
        sku, code = data.draw(st.sampled_from(sorted(self.model.items)))
        due = self.due((sku, code))
        answer = self.run(executor.execute(ExpireHolds(stream=f"stock:{sku}@{code}", limit=limit)))
        assert answer.status == 204
        assert len(self.due((sku, code))) == max(0, len(due) - limit)

    def due(self, place: Place) -> list[str]:
        """Reservations whose hold there is over and in the index still active."""
        return [
            rid
            for (rid, *at), hold in self.world.holds().items()
            if tuple(at) == place and hold.active and self.model.bookings[rid].has_expired
        ]

    # What must always hold -----------------------------------------------------------------------

    @invariant()
    def everything_is_right(self) -> None:
        self.ledger.take(self.world.rows(self.ledger.size))
        assert self.ledger.items.keys() == self.model.items.keys()
        for place in self.model.items:
            self.model.versions[place] = self.ledger.version(place)
            self.assert_item_is_right(place)
        index = self.world.holds()
        assert index == self.ledger.holds
        assert self.world.headers() == self.ledger.headers == set(self.model.bookings)
        for rid, booking in self.model.bookings.items():
            self.assert_index_is_right(rid, booking)
        assert self.world.recorded(0) == [(k, *outcome) for k, outcome in self.recorded.items()]
        assert self.world.refused() == self.refused
        assert not any(status >= 400 and key in self.ledger.command_of for key, (status, _) in self.recorded.items())

    def assert_item_is_right(self, place: Place) -> None:
        item, audited, figures = self.model.items[place], self.ledger.audited[place], self.ledger.figures(place)
        due = sum(
            hold.active for (rid, *at), hold in self.ledger.holds.items() if (*at,) == place and self.is_over(rid)
        )
        assert audited.on_hand == figures.get("on_hand", 0) == item.on_hand
        assert audited.reserved - due == figures.get("reserved", 0) - due == self.model.reserved(place)
        assert audited.committed == figures.get("committed", 0) == self.model.committed(place)
        assert audited.damaged == figures.get("damaged", 0) == item.damaged
        assert audited.quarantined == figures.get("quarantined", 0) == item.quarantined
        for name in ("sold", "returned", "lost"):
            assert figures.get(name, 0) == getattr(item, name), name

    def is_over(self, reservation_id: str) -> bool:
        ends = self.model.bookings[reservation_id].ends
        return ends is not None and ends <= self.model.now

    def assert_index_is_right(self, reservation_id: str, booking: Booking) -> None:
        for held in booking.held:
            row = self.ledger.holds[reservation_id, *held.place]
            due = row.active if self.is_over(reservation_id) else 0
            assert (row.active - due, row.released + due) == (held.active, held.released)
            assert (row.committed, row.shipped, row.returned) == (held.committed, held.shipped, held.returned)
            assert (row.expired or due > 0, row.cancelled) == (held.expired, held.cancelled)

    # The end -------------------------------------------------------------------------------------

    def teardown(self) -> None:
        try:
            if self.is_open:
                self.run(self.look_back(self.world))
        finally:
            if self.is_open:
                self.run(self.world.cluster.close())
                self.world.close()
            self.loop.close()

    async def look_back(self, world: World) -> None:
        """The log is whole, and a process that knows nothing tells the same of every item and every reservation."""
        check_index(audit(world.rows(0)), world.holds().values(), world.headers())
        fresh = await world.cluster.executor()
        for sku, code in self.model.items:
            _, facts = self.model.decide(nothing(sku, code), None)
            self.assert_told(said(await ask(fresh, nothing(sku, code))), facts, f"{sku}@{code}")
        for rid, booking in self.model.bookings.items():
            if booking.command.reservation_id == rid:
                answer = await ask(fresh, booking.command)
                status, facts = self.model.decide(booking.command, None)
                assert answer.status == status, answer
                facts.pop("release_reason", None)
                self.assert_told(said(answer), facts, rid)
