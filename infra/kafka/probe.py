"""Whether a broker is at an address and takes work, asked without a client library and without its patience."""

import socket
import struct
from collections.abc import Iterator

DEFAULT_PORT = 9092
_METADATA, _VERSION, _CORRELATION = 3, 1, 7
# Header (no client id), then a list of no topics.
_REQUEST = struct.pack(">hhihi", _METADATA, _VERSION, _CORRELATION, -1, 0)
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
        connection.settimeout(timeout_s)
        connection.sendall(struct.pack(">i", len(_REQUEST)) + _REQUEST)
        with connection.makefile("rb") as answers:
            head = answers.read(12)
    if len(head) < 12:  # noqa: PLR2004  (it hung up)
        return False
    length, correlation, brokers = struct.unpack(">iii", head)
    return bool(correlation == _CORRELATION and length <= _ANSWER_MAX and brokers > 0)
