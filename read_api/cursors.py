"""Where a list goes on: the last row's sort key, opaque to the caller."""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Any

import msgspec

from infra.problems import InvalidRequest


def encode_cursor(key: tuple[Any, ...]) -> str:
    """``key`` as text that stands in a query without being escaped."""
    return urlsafe_b64encode(msgspec.json.encode(key)).rstrip(b"=").decode()


def decode_cursor(cursor: str, shape: Any) -> Any:
    """The key of type ``shape`` that made ``cursor``. Raises InvalidRequest if none did."""
    try:
        padded = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
        return msgspec.json.decode(urlsafe_b64decode(padded), type=shape)
    except (ValueError, msgspec.MsgspecError):
        raise InvalidRequest([("query.cursor", "not a cursor of this list")]) from None
