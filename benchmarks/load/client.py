"""The event loop of the load process, written for cost per request: no task, no object and no copy for each one."""

import random
import select
import socket
import time
from array import array
from collections import deque
from collections.abc import Iterator

from benchmarks.load.histogram import Histogram
from benchmarks.load.plan import LoadResult, Plan, Stream, StreamResult
from benchmarks.load.requests import Lane
from benchmarks.load.wire import MalformedResponseError, Response, parse_response

# Below malloc's mmap threshold: a bigger buffer would be mapped and unmapped for every single read.
_RECEIVE_BYTES = 65_536
_DRAIN_S_MAX = 30.0
_CONNECT_TIMEOUT_S = 10.0
_FAILURES_MAX = 1_000
_FIRST_REFUSAL_STATUS = 400


class TooManyFailuresError(Exception):
    """The server keeps dropping connections: no figure from such a run would mean anything."""


class _Tally:
    """What is counted for one stream."""

    def __init__(self, stream: Stream) -> None:
        self.statuses: dict[int, int] = {}
        self.markers = {text.encode(): 0 for text in stream.markers.values()}
        self.durations_s = array("d")
        self.failures = 0
        self._names = {text.encode(): name for name, text in stream.markers.items()}
        self._last_refusal = b""

    def count(self, response: Response, data: bytes | bytearray) -> None:
        status = response.status
        self.statuses[status] = self.statuses.get(status, 0) + 1
        if status >= _FIRST_REFUSAL_STATUS:
            self._last_refusal = bytes(data[response.body_start : response.body_start + 500])
        for marker in self.markers:
            self.markers[marker] += data.count(marker, response.body_start)

    def result(self) -> StreamResult:
        histogram = Histogram()
        histogram.record_all(self.durations_s)
        return StreamResult(
            statuses={str(status): count for status, count in self.statuses.items()},
            markers={self._names[marker]: count for marker, count in self.markers.items()},
            failures=self.failures,
            latencies=histogram.to_sparse(),
            last_refusal=self._last_refusal.decode(errors="replace"),
        )


class _Connection:
    """One socket to one server, with at most one request on its way."""

    __slots__ = ("address", "partial", "partial_end", "requests", "sent_at", "sock", "tally", "user")

    def __init__(self, address: tuple[str, int], requests: Iterator[bytes], tally: _Tally) -> None:
        self.address = address
        self.requests = requests
        self.tally = tally
        self.partial = bytearray()
        self.partial_end = 0
        self.sent_at = 0.0
        self.user: _User
        self.connect()

    def connect(self) -> None:
        self.sock = socket.create_connection(self.address, _CONNECT_TIMEOUT_S)
        # Blocking from here on: reads follow epoll, and a server with one request in flight reads what it is sent.
        self.sock.settimeout(None)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.partial.clear()

    def receive(self) -> Response | None:
        """Reads once; the response (its bytes in `partial` or `sock`'s last read) when it is complete, else None."""
        data: bytes | bytearray = self.sock.recv(_RECEIVE_BYTES)
        if not data:
            raise ConnectionResetError
        if self.partial:
            self.partial += data
            if len(self.partial) < self.partial_end:
                return None
            data = self.partial
        response = parse_response(data)
        if response is None or response.end > len(data):
            self.partial = bytearray(data)
            self.partial_end = response.end if response else 0
            return None
        self.tally.count(response, data)
        if self.partial:
            self.partial = bytearray()
        return response


class _User:
    """A closed loop of its own: one connection per stream, the next request on one of them by weight."""

    __slots__ = ("_connections", "_random", "_weights")

    def __init__(self, connections: list[_Connection], weights: list[float], seed: str) -> None:
        self._connections = connections
        self._weights = weights
        self._random = random.Random(seed)
        for connection in connections:
            connection.user = self

    def next_connection(self) -> _Connection:
        if len(self._connections) == 1:
            return self._connections[0]
        return self._random.choices(self._connections, self._weights)[0]


class LoadClient:
    """Runs one plan."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._tallies = [_Tally(stream) for stream in plan.streams]
        self._epoll = select.epoll()
        self._by_fd: dict[int, _Connection] = {}
        self._users = [self._connect_user(number) for number in range(plan.users)]
        self._in_flight = 0
        self._deadline = float("inf")

    def _connect_user(self, number: int) -> _User:
        plan = self._plan
        lane = Lane(plan.run, number, plan.users)
        connections = [
            _Connection((stream.host, stream.port), stream.requests.stream(lane), tally)
            for stream, tally in zip(plan.streams, self._tallies, strict=True)
        ]
        for connection in connections:
            self._register(connection)
        return _User(connections, [stream.weight for stream in plan.streams], f"{plan.run}/{number}")

    def _register(self, connection: _Connection) -> None:
        self._by_fd[connection.sock.fileno()] = connection
        self._epoll.register(connection.sock.fileno(), select.EPOLLIN)

    def run(self) -> LoadResult:
        """Raises TooManyFailuresError; OSError when the server cannot be reached (again)."""
        cpu_before, started = time.process_time(), time.perf_counter()
        if self._plan.seconds is not None:
            self._deadline = started + self._plan.seconds
        if self._plan.rate is None:
            self._run_closed()
        else:
            self._run_open(started, 1 / self._plan.rate)
        seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu_before
        for connection in self._by_fd.values():
            connection.sock.close()
        streams = zip(self._plan.streams, self._tallies, strict=True)
        return LoadResult(seconds, cpu_seconds, {stream.name: tally.result() for stream, tally in streams})

    def finish(self) -> None:
        """Sends nothing more (from a signal handler)."""
        self._deadline = min(self._deadline, time.perf_counter())

    def _run_closed(self) -> None:
        for user in self._users:
            self._send(user, time.perf_counter())
        while self._in_flight:
            for user in self._answered(1.0):
                now = time.perf_counter()
                if now < self._deadline:
                    self._send(user, now)

    def _run_open(self, started: float, interval: float) -> None:
        idle, overdue, next_due = deque(self._users), deque[float](), started
        while True:
            now = time.perf_counter()
            while next_due <= min(now, self._deadline):
                overdue.append(next_due)
                next_due += interval
            # Waking late is this client's fault, not the server's: whoever finds a free user counts from now.
            while overdue and idle:
                overdue.popleft()
                self._send(idle.popleft(), now)
            if now > self._deadline and not self._in_flight and not overdue:
                return
            for user in self._answered(max(0.0, min(next_due - now, 1.0))):
                if overdue:
                    self._send(user, overdue.popleft())
                else:
                    idle.append(user)

    def _send(self, user: _User, counted_from: float) -> None:
        connection = user.next_connection()
        request = next(connection.requests, None)
        if request is None:
            return
        connection.sent_at = counted_from
        self._in_flight += 1
        try:
            connection.sock.sendall(request)
        except ConnectionError:
            self._reconnect(connection)  # its user comes up again as answered: the fresh socket is not readable
            self._send(user, time.perf_counter())

    def _answered(self, timeout_s: float) -> Iterator[_User]:
        """Waits for answers once, counts them, and yields who is free again."""
        ready = self._epoll.poll(timeout_s, 256)
        if not ready and time.perf_counter() > self._deadline + _DRAIN_S_MAX:
            raise TooManyFailuresError(
                f"{self._in_flight} requests without an answer {_DRAIN_S_MAX:.0f} s past the end"
            )
        for fd, _ in ready:
            connection = self._by_fd[fd]
            try:
                response = connection.receive()
            except (ConnectionError, MalformedResponseError):
                self._reconnect(connection)
                yield connection.user
                continue
            if response is not None:
                connection.tally.durations_s.append(time.perf_counter() - connection.sent_at)
                self._in_flight -= 1
                yield connection.user

    def _reconnect(self, connection: _Connection) -> None:
        self._in_flight -= 1
        connection.tally.failures += 1
        if connection.tally.failures > _FAILURES_MAX:
            raise TooManyFailuresError(f"{connection.tally.failures} connections lost")
        self._epoll.unregister(connection.sock.fileno())
        del self._by_fd[connection.sock.fileno()]
        connection.sock.close()
        connection.connect()
        self._register(connection)
