"""HTTP/1.1 as bytes: requests as templates of fixed length, responses read with two searches."""

from typing import NamedTuple

_HEAD_END = b"\r\n\r\n"
_LENGTH_HEADERS = (b"\r\ncontent-length:", b"\r\nContent-Length:")


def get(path: str, host: str = "bench") -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()


def with_body(method: str, path: str, body: bytes, key: bytes = b"", host: str = "bench") -> bytes:
    """A request with a JSON body; `key` (if any) is its Idempotency-Key."""
    head = f"{method} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n".encode()
    if key:
        head += b"Idempotency-Key: " + key + b"\r\n"
    return head + b"Content-Length: %d\r\n\r\n" % len(body) + body


class Response(NamedTuple):
    """Where a complete response stands in a buffer."""

    status: int
    body_start: int
    end: int


class MalformedResponseError(Exception):
    """The server answered something that this client cannot read (it reads responses with a content length only)."""


def parse_response(data: bytes | bytearray) -> Response | None:
    """The response at the start of `data`, or None while its head is not there whole.

    `end` may lie beyond the data: then that many bytes are needed before it is complete.
    Raises MalformedResponseError for a head without a status or a content length.
    """
    head_end = data.find(_HEAD_END)
    if head_end < 0:
        return None
    if data[:5] != b"HTTP/":
        raise MalformedResponseError(bytes(data[:80]))
    body_start = head_end + 4
    return Response(int(data[9:12]), body_start, body_start + _content_length(data, head_end))


def _content_length(data: bytes | bytearray, head_end: int) -> int:
    for header in _LENGTH_HEADERS:
        start = data.find(header, 0, head_end)
        if start >= 0:
            start += len(header)
            line_end = data.find(b"\r\n", start, head_end)
            return int(data[start : head_end if line_end < 0 else line_end])
    if data[9:12] in {b"204", b"304"}:
        return 0
    raise MalformedResponseError(bytes(data[:head_end]))
