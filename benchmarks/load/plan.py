"""What the load process is told and what it answers (JSON, over its standard input and output)."""

import msgspec

from benchmarks.load.histogram import Histogram
from benchmarks.load.requests import Requests


class Stream(msgspec.Struct, frozen=True):
    """One kind of request to one server; `weight` is its share among a user's requests.

    `markers`: name → text whose occurrences in the response bodies are counted.
    """

    name: str
    host: str
    port: int
    requests: Requests
    weight: float = 1.0
    markers: dict[str, str] = msgspec.field(default_factory=dict)


class Plan(msgspec.Struct, frozen=True):
    """`users` connections per stream, each with one request in flight.

    Closed loop: a user sends its next request (of a stream picked by weight) when the last one is answered.
    With `rate` (requests per second over all users) the loop is open: a request is due at its time whether or not
    the earlier ones are answered, and its latency counts from then if no user was free.
    Ends after `seconds`, or, if None, when every stream is exhausted (finite kinds only).
    """

    run: str
    users: int
    seconds: float | None
    streams: tuple[Stream, ...]
    rate: float | None = None


class StreamResult(msgspec.Struct):
    """`failures`: connections lost or answers unreadable. `last_body`: of the last answer that was no success."""

    statuses: dict[str, int] = msgspec.field(default_factory=dict)
    markers: dict[str, int] = msgspec.field(default_factory=dict)
    failures: int = 0
    latencies: dict[str, float] = msgspec.field(default_factory=dict)
    last_refusal: str = ""

    @property
    def requests(self) -> int:
        return sum(self.statuses.values())

    @property
    def succeeded(self) -> int:
        return sum(count for status, count in self.statuses.items() if status.startswith("2"))

    def histogram(self) -> Histogram:
        return Histogram.from_sparse(self.latencies)


class LoadResult(msgspec.Struct):
    """`seconds`: from the first request to the last answer. `cpu_seconds`: of the client itself in that time."""

    seconds: float
    cpu_seconds: float
    streams: dict[str, StreamResult]

    def per_second(self, stream: str) -> float:
        return self.streams[stream].succeeded / self.seconds

    @property
    def client_us_per_request(self) -> float:
        requests = sum(stream.requests for stream in self.streams.values())
        return self.cpu_seconds / max(requests, 1) * 1e6
