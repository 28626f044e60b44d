"""What a request's headers say: its idempotency key, who asks, and what it is part of."""

import re
from collections.abc import Iterable
from typing import Final

from infra.ids import new_id
from write_side.submission import ANONYMOUS

Headers = Iterable[tuple[bytes, bytes]]
"""Names in lower case, as ASGI and the fast lane have them."""

KEY_CHARACTERS_MAX: Final = 128
REFERENCE_CHARACTERS_MAX: Final = 128

_KEY = re.compile(rb"[\x20-\x7e]{1,%d}" % KEY_CHARACTERS_MAX)
# https://www.w3.org/TR/trace-context/: version, trace, parent, flags, and what later versions may add.
_TRACEPARENT = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(-.*)?")
_READ_ONCE: Final = frozenset({b"idempotency-key", b"x-actor", b"x-correlation-id", b"content-type"})
_READ: Final = _READ_ONCE | {b"traceparent", b"if-none-match"}


class Caller:
    """Who asks, under which key. Reading never fails: ``errors`` tells (path, message) of what is wrong.

    ``key`` is the one given, or one made here if there is none (or none that could be used), so that
    every answer can carry one.
    """

    __slots__ = ("actor", "correlation_id", "errors", "key", "media_type", "only_create")

    def __init__(self, headers: Headers) -> None:
        self.errors: list[tuple[str, str]] = []
        found: dict[bytes, bytes] = {}
        for name, value in headers:
            if name in _READ:
                if name in found and name in _READ_ONCE:
                    self._refuse(name, "given more than once")
                found[name] = value
        self.key = self._read_key(found.get(b"idempotency-key"))
        self.actor = self._read_reference(b"x-actor", found) or ANONYMOUS
        self.correlation_id = self._read_reference(b"x-correlation-id", found) or _trace_id(found.get(b"traceparent"))
        self.media_type = found.get(b"content-type")
        self.only_create = found.get(b"if-none-match") == b"*"

    def _read_key(self, value: bytes | None) -> str:
        if value is not None:
            if _KEY.fullmatch(value) and not self.errors:
                return value.decode()
            self._refuse(b"idempotency-key", f"1 to {KEY_CHARACTERS_MAX} printable ASCII characters expected")
        return new_id()

    def _read_reference(self, name: bytes, found: dict[bytes, bytes]) -> str | None:
        value = found.get(name)
        if value is None:
            return None
        try:
            text = value.decode()
        except UnicodeDecodeError:
            text = ""
        if not 1 <= len(text) <= REFERENCE_CHARACTERS_MAX:
            self._refuse(name, f"1 to {REFERENCE_CHARACTERS_MAX} characters of UTF-8 expected")
            return None
        return text

    def _refuse(self, name: bytes, message: str) -> None:
        self.errors.append((f"header.{name.decode()}", message))


def _trace_id(traceparent: bytes | None) -> str | None:
    """The trace that a caller's ``traceparent`` names; a malformed one is as if it were not there."""
    parts = _TRACEPARENT.fullmatch(traceparent) if traceparent else None
    if parts is None:
        return None
    version, trace, parent, more = parts.groups()
    if version == b"ff" or (version == b"00" and more) or not int(trace, 16) or not int(parent, 16):
        return None
    return trace.decode()
