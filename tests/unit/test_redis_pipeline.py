"""The pipeline's side of a conversation with Redis: who gets which reply, however the bytes arrive."""

import asyncio
from collections.abc import Sequence
from typing import Any

import hiredis
import pytest

from infra.redis_pipeline import _Connection, packed


class Wire(asyncio.Transport):
    """The other end: keeps what was sent."""

    def __init__(self, connection: _Connection) -> None:
        super().__init__()
        self.sent = b""
        self.aborted = False
        self.connection = connection

    def is_closing(self):
        return False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.sent += bytes(data)

    def abort(self) -> None:
        if not self.aborted:
            self.aborted = True
            self.connection.connection_lost(None)


class SetGate:
    def __init__(self) -> None:
        self.replies: list[Any] = []

    def commands(self) -> Sequence[bytes]:
        return (packed("GATE"),)

    def is_open(self, replies: Sequence[Any]) -> bool:
        self.replies += replies
        return bool(replies[0] == b"open")


@pytest.fixture
async def connection():
    connection = _Connection(timeout_s=5)
    connection.connection_made(Wire(connection))
    yield connection
    connection.close()


def wire(connection: _Connection) -> Wire:
    found: Wire = connection._transport
    return found


async def turn() -> None:
    await asyncio.sleep(0)
    await asyncio.sleep(0)


def test_a_command_is_packed_as_redis_wants_it():
    for parts in (("GET", "k"), (b"SET", "k", b"\x00\r\n$"), ("ECHO", "ü" * 100)):
        assert packed(*parts) == bytes(hiredis.pack_command(tuple(parts)))  # type: ignore[arg-type]  # the stub means any length


async def test_what_is_asked_in_one_turn_goes_out_at_once_in_order(connection):
    connection.ask([packed("A")], lambda _: None)
    connection.ask([packed("B"), packed("C")], lambda _: None)
    assert wire(connection).sent == b""
    await turn()
    assert wire(connection).sent == packed("A") + packed("B") + packed("C")


async def test_replies_find_their_askers_however_they_are_cut(connection):
    got: list[Any] = []
    connection.ask([packed("A")], got.append)
    connection.ask([packed("B"), packed("C")], got.append)
    for byte in b"$5\r\nhello\r\n*2\r\n$1\r\na\r\n$-1\r\n:7\r\n":
        connection.data_received(bytes([byte]))
    assert got == [[b"hello"], [[b"a", None], 7]]


async def test_a_refusal_is_its_askers_alone(connection, caplog):
    got: list[Any] = []
    for _ in range(3):
        connection.ask([packed("A")], got.append)
    connection.data_received(b"+OK\r\n-WRONGTYPE no\r\n+OK\r\n")
    assert got == [[b"OK"], None, [b"OK"]]
    assert "WRONGTYPE" in caplog.text


async def test_an_asker_that_fails_does_not_take_the_others_along(connection, caplog):
    got: list[Any] = []

    def fail(_: Any) -> None:
        raise ValueError("boom")

    connection.ask([packed("A")], fail)
    connection.ask([packed("B")], got.append)
    connection.data_received(b"+1\r\n+2\r\n")
    assert got == [[b"2"]]
    assert "boom" in caplog.text


async def test_a_shut_gate_shuts_out_its_own_round_trip_only(connection):
    got: list[Any] = []
    gate = SetGate()
    connection.ask([packed("GATE")], got.append, gate)
    connection.ask([packed("A")], got.append)
    connection.ask([packed("GATE")], got.append, gate)
    connection.ask([packed("B")], got.append)
    connection.data_received(b"+shut\r\n+1\r\n+open\r\n+2\r\n")
    assert got == [None, [b"2"]]
    assert gate.replies == [b"shut", b"open"]


async def test_a_lost_connection_answers_everybody(connection):
    got: list[Any] = []
    connection.ask([packed("A")], got.append)
    connection.ask([packed("B")], got.append)
    connection.data_received(b"+1\r\n")
    connection.connection_lost(None)
    assert got == [[b"1"], None]
    assert connection.lost.done()


async def test_who_asks_a_connection_just_lost_is_told_at_once(connection):
    got: list[Any] = []
    connection.connection_lost(None)
    connection.ask([packed("A")], got.append)
    assert got == [None]


@pytest.mark.parametrize("nonsense", [b"hello?\r\n", b"+1\r\n+2\r\n"])
async def test_nonsense_ends_the_conversation(connection, nonsense, caplog):
    got: list[Any] = []
    connection.ask([packed("A")], got.append)
    connection.data_received(nonsense)
    assert len(got) == 1
    assert wire(connection).aborted
    assert "nonsense" in caplog.text


async def test_silence_is_a_lost_connection_and_answers_in_time_are_not(caplog):
    connection = _Connection(timeout_s=0.03)
    connection.connection_made(Wire(connection))
    got: list[Any] = []
    connection.ask([packed("A")], got.append)
    connection.data_received(b"+1\r\n")
    connection.ask([packed("B")], got.append)
    async with asyncio.timeout(5):
        await connection.lost
    assert got == [[b"1"], None]
    assert "does not answer" in caplog.text
