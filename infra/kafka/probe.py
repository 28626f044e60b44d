"""Whether a broker is at an address and takes work, asked without a client library and without its patience."""

import socket
import struct
from collections.abc import Iterator

DEFAULT_PORT = 9092
_CORRELATION = 7
_HEADER = ">hhih"  # what is asked, in which version, correlation, no client id
# Metadata of no topic, version 1.
_METADATA = struct.pack(_HEADER + "i", 3, 1, _CORRELATION, -1, 0)
# The coordinator of a group, version 1. Asking makes the topic that the coordinators need.
_GROUP = b"stockhold"
_COORDINATOR = struct.pack(_HEADER + f"h{len(_GROUP)}sb", 10, 1, _CORRELATION, -1, len(_GROUP), _GROUP, 0)
_ANSWER_MAX = 1 << 20


def addresses(servers: str) -> Iterator[tuple[str, int]]:
    """Host and port of each of `host:port,host:port`. Raises ValueError for a port that is no number."""
    for server in servers.split(","):
        host, colon, port = server.strip().rpartition(":")
        if not colon:
            host, port = port, str(DEFAULT_PORT)
        if not host or not port.isdecimal():
            raise ValueError(f"{server.strip()!r} is no address of a broker: host:port is")
        yield host.strip("[]"), int(port)


def broker_answers(host: str, port: int, timeout_s: float = 1.0) -> bool:
    """Whether a broker there knows of a cluster with at least one broker that works.

    Raises OSError if nobody listens or nobody answers in time.
    """
    with socket.create_connection((host, port), timeout_s) as connection:
        (brokers,) = _ask(connection, _METADATA, "i") or (0,)
    return bool(brokers)


def coordinator_answers(host: str, port: int, timeout_s: float = 1.0) -> bool:
    """Whether groups can be joined by now, too: a new broker makes the topic for them when it is first asked.

    Raises OSError as `broker_answers` does.
    """
    with socket.create_connection((host, port), timeout_s) as connection:
        _, error = _ask(connection, _COORDINATOR, "ih") or (0, -1)
    return error == 0


def _ask(connection: socket.socket, request: bytes, wanted: str) -> tuple[int, ...] | None:
    """The first fields of the answer; None if there is none that can be read."""
    connection.sendall(struct.pack(">i", len(request)) + request)
    shape = ">ii" + wanted
    size = struct.calcsize(shape)
    with connection.makefile("rb") as answers:
        head = answers.read(size)
    if len(head) < size:
        return None
    length, correlation, *fields = struct.unpack(shape, head)
    return tuple(fields) if correlation == _CORRELATION and length <= _ANSWER_MAX else None
