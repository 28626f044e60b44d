"""Single calls between the measurements: set-up, probes, checks."""

import http.client
from typing import Any
from urllib.parse import urlsplit

import msgspec

from benchmarks.errors import StackUnreachableError

_TIMEOUT_S = 30.0


def address(url: str) -> tuple[str, int]:
    """(host, port) of an HTTP URL."""
    parts = urlsplit(url)
    return parts.hostname or "127.0.0.1", parts.port or 80


class Client:
    """One kept-alive connection. Raises StackUnreachableError when the server does not answer."""

    def __init__(self, url: str) -> None:
        host, port = address(url)
        self._connection = http.client.HTTPConnection(host, port, timeout=_TIMEOUT_S)

    def call(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """(status, decoded JSON)."""
        content = None if body is None else msgspec.json.encode(body)
        headers = {} if body is None else {"Content-Type": "application/json"}
        try:
            self._connection.request(method, path, content, headers)
            response = self._connection.getresponse()
            answer = response.read()
        except OSError as error:
            self._connection.close()
            raise StackUnreachableError(f"{method} {path}: {error}") from error
        return response.status, msgspec.json.decode(answer) if answer else None

    def close(self) -> None:
        self._connection.close()
