"""The load generator against small servers on real sockets: it counts what happened, and nothing that did not."""

import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count

import pytest

from benchmarks.errors import LoadFailedError
from benchmarks.items import Items
from benchmarks.load.plan import Plan, Stream
from benchmarks.load.process import RunningLoad, run_load
from benchmarks.load.requests import Fixed, Requests, Restock
from benchmarks.machine import client_cost_us

_OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"
_LONG_BODY = b'{"status":201}' * 20_000
_LONG = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(_LONG_BODY) + _LONG_BODY

Answer = Callable[[socket.socket], None]


@contextmanager
def _server(answer: Answer) -> Iterator[int]:
    """A thread per connection; `answer` is called for every request (all of which fit one segment here)."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self):
            while self.request.recv(65_536):
                answer(self.request)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True

        def handle_error(self, request, client_address):
            """The client leaves, or an answer has closed the connection: both are part of these tests."""

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


def _plan(
    port: int, requests: Requests, users: int = 4, seconds: float | None = None, rate: float | None = None
) -> Plan:
    stream = Stream("all", "127.0.0.1", port, requests, markers={"made": '"status":201'})
    return Plan("run", users, seconds, (stream,), rate)


def test_a_finite_stream_is_sent_once_and_whole():
    with _server(lambda connection: connection.sendall(_OK)) as port:
        stream = run_load(_plan(port, Restock(Items("X", 0, 300), 1), users=7)).streams["all"]
    assert stream.statuses == {"200": 300}
    assert stream.failures == 0
    assert stream.histogram().count == 300


def test_answers_in_many_pieces_are_put_together():
    def dribble(connection: socket.socket) -> None:
        for start in range(0, len(_LONG), 40_000):
            connection.sendall(_LONG[start : start + 40_000])

    def cut_in_the_head(connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for piece in (_LONG[:10], _LONG[10:41], _LONG[41:]):
            connection.sendall(piece)

    for answer in (dribble, cut_in_the_head):
        with _server(answer) as port:
            stream = run_load(_plan(port, Restock(Items("X", 0, 20), 1))).streams["all"]
        assert stream.statuses == {"200": 20}
        assert stream.markers == {"made": 20 * 20_000}


def test_refusals_are_counted_and_the_last_one_kept():
    refusal = b'HTTP/1.1 409 Conflict\r\ncontent-length: 15\r\n\r\n{"code":"short"'
    with _server(lambda connection: connection.sendall(refusal)) as port:
        stream = run_load(_plan(port, Restock(Items("X", 0, 10), 1))).streams["all"]
    assert (stream.requests, stream.succeeded) == (10, 0)
    assert stream.last_refusal == '{"code":"short"'


def test_a_lost_connection_is_a_failure_and_not_the_end():
    numbers = count(1)

    def drop_every_fifth(connection: socket.socket) -> None:
        if next(numbers) % 5 == 0:
            connection.close()
        else:
            connection.sendall(_OK)

    with _server(drop_every_fifth) as port:
        stream = run_load(_plan(port, Restock(Items("X", 0, 100), 1), users=2)).streams["all"]
    assert stream.failures == 20
    assert stream.statuses == {"200": 80}


def test_a_server_that_is_not_there_is_an_error_with_its_reason():
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    with pytest.raises(LoadFailedError, match="refused"):
        run_load(_plan(port, Fixed("/"), seconds=1.0))


def test_an_open_loop_keeps_its_rate():
    with _server(lambda connection: connection.sendall(_OK)) as port:
        load = run_load(_plan(port, Fixed("/"), seconds=1.0, rate=300.0))
    assert 299 <= load.streams["all"].requests <= 302


def test_an_open_loop_counts_the_wait_for_a_slow_server():
    """Ten requests a second from one user to a server that takes 0.2 s: the last ones have waited for all before."""

    def slow(connection: socket.socket) -> None:
        time.sleep(0.2)
        connection.sendall(_OK)

    with _server(slow) as port:
        load = run_load(_plan(port, Fixed("/"), users=1, seconds=1.0, rate=10.0))
    latency = load.streams["all"].histogram()
    assert 10 <= latency.count <= 11
    assert latency.percentile_ms(1) < 400
    assert latency.max_ms > 900


def test_it_can_be_told_to_finish():
    answered = threading.Event()

    def answer(connection: socket.socket) -> None:
        answered.set()
        connection.sendall(_OK)

    with _server(answer) as port, RunningLoad(_plan(port, Fixed("/"), seconds=300.0)) as load:
        assert answered.wait(30)
        result = load.finish_now()
    assert result.seconds < 60
    assert result.streams["all"].succeeded > 0
    assert result.streams["all"].failures == 0


def test_its_own_cost_is_a_number_of_microseconds():
    assert 1 < client_cost_us() < 1_000


def test_the_hello_server_answers():
    server = subprocess.Popen([sys.executable, "-P", "-m", "benchmarks.opponents.hello"], stdout=subprocess.PIPE)
    try:
        assert server.stdout is not None
        stream = run_load(_plan(int(server.stdout.readline()), Fixed("/"), seconds=0.2)).streams["all"]
    finally:
        server.terminate()
        server.communicate()
    assert stream.failures == 0
    assert stream.succeeded == stream.requests > 0
