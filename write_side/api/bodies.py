"""From the bytes of a body, and what the path says, to a command within its limits: or InvalidRequest.

The body's own struct has the command's fields without those that the path or a header names, so that a
body that names them is refused like any unknown field. It is decoded in one go, and what is decoded is
within the limits of :mod:`domain.values`.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any, Final, get_args
from urllib.parse import unquote_to_bytes

import msgspec
from msgspec import Meta
from msgspec.structs import FieldInfo, asdict, fields

from domain.commands import ChangePolicy, Command, CreateReservation
from domain.policy import PolicyPatch
from domain.values import EntityId, Sku, WarehouseCode
from infra.problems import InvalidRequest, validation_error

MAX_BATCH: Final = 1_000
_MESSAGE_CHARACTERS_MAX: Final = 300

Body = bytes | bytearray
Undecodable: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def refused_body(error: Exception) -> InvalidRequest:
    """What is wrong with a body that could not be decoded; what it quotes of the body is cut short."""
    if isinstance(error, UnicodeDecodeError):
        return InvalidRequest([("$", "the body is not UTF-8")])
    if isinstance(error, RecursionError):
        return InvalidRequest([("$", "the body is nested too deeply")])
    (path, message), *_ = validation_error(error).errors
    return InvalidRequest([(path, message[:_MESSAGE_CHARACTERS_MAX])])


# Bodies ----------------------------------------------------------------------------------------------


class CommandReader:
    """Reads bodies of one command. ``given`` are the fields that come from elsewhere."""

    def __init__(self, command: type[Command], given: Iterable[str] = ()) -> None:
        self.body: type[msgspec.Struct] = _body_of(command, set(given))
        self._decode: Callable[[Body], Any] = msgspec.json.Decoder(self.body).decode
        self._compose: Callable[[Mapping[str, Any], Any], Command]
        if command is ChangePolicy:
            self._compose = _change_policy
        elif self.body is command:
            self._compose = _as_decoded
        else:
            self._compose = lambda given, parsed: command(**given, **asdict(parsed))

    def read(self, given: Mapping[str, Any], body: Body) -> Command:
        """The command that ``given`` and ``body`` (empty: all defaults) make. Raises InvalidRequest."""
        try:
            parsed = self._decode(body or b"{}")
        except Undecodable as error:
            raise refused_body(error) from None
        try:
            return self._compose(given, parsed)
        except ValueError as error:  # fields that are right each by itself, and do not go together
            raise InvalidRequest([("$", str(error))]) from None


def _as_decoded(_: Mapping[str, Any], parsed: Command) -> Command:
    return parsed


def _change_policy(given: Mapping[str, Any], parsed: Any) -> Command:
    """Thresholds and the fields of every stock call stand side by side in this body."""
    values = asdict(parsed)
    patch = PolicyPatch(**{name: values.pop(name) for name in PolicyPatch.__struct_fields__})
    return ChangePolicy(**given, **values, patch=patch)


def _body_of(command: type[Command], given: set[str]) -> type[msgspec.Struct]:
    own: Sequence[FieldInfo] = [info for info in fields(command) if info.name not in given]
    if command is ChangePolicy:
        own = [info for info in own if info.name != "patch"] + list(fields(PolicyPatch))
    elif not given:
        return command
    return msgspec.defstruct(
        command.__name__,
        [_definition(info) for info in own],
        frozen=True,
        kw_only=True,
        forbid_unknown_fields=True,
        namespace={"__doc__": command.__doc__},
    )


def _definition(info: FieldInfo) -> tuple[str, Any] | tuple[str, Any, Any]:
    if info.required:
        return (info.name, info.type)
    return (info.name, info.type, info.default)


# The batch -------------------------------------------------------------------------------------------


class ReservationBatch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Reservations to make, each as in ``POST /v1/reservations``; one that is refused does not touch the others."""

    reservations: Annotated[list[CreateReservation], Meta(min_length=1, max_length=MAX_BATCH)]


class _RawBatch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    reservations: Annotated[list[msgspec.Raw], Meta(min_length=1, max_length=MAX_BATCH)]


_decode_batch = msgspec.json.Decoder(ReservationBatch).decode
_decode_raw_batch = msgspec.json.Decoder(_RawBatch).decode
_create = CommandReader(CreateReservation)


def read_batch(body: Body) -> list[Command | InvalidRequest]:
    """The items of a batch, each a command or what is wrong with it. Raises InvalidRequest for the whole."""
    try:
        reservations = _decode_batch(body or b"{}").reservations
    except Undecodable:
        # Somewhere there is something wrong: where, is worth a second look only now.
        return _read_one_by_one(body)
    return list(reservations)


def _read_one_by_one(body: Body) -> list[Command | InvalidRequest]:
    try:
        items = _decode_raw_batch(body or b"{}").reservations
    except Undecodable as error:
        raise refused_body(error) from None
    return [_read_item(bytes(item)) for item in items]


def _read_item(item: bytes) -> Command | InvalidRequest:
    try:
        return _create.read({}, item)
    except InvalidRequest as error:
        return InvalidRequest(error.errors)  # one without a traceback, which would hold whoever holds it


# Paths -----------------------------------------------------------------------------------------------

PATH_TYPES: Final[Mapping[str, Any]] = {
    "reservation_id": EntityId,
    "sku": Sku,
    "warehouse": WarehouseCode,
    "code": WarehouseCode,
}
_PLAIN: Final = {name: re.compile(get_args(kind)[1].pattern) for name, kind in PATH_TYPES.items()}


def path_value(name: str, segment: str) -> str:
    """The identifier ``name`` in a segment of a path as it was sent. Raises InvalidRequest."""
    if _PLAIN[name].match(segment):
        return segment
    try:
        return str(msgspec.convert(unquote_to_bytes(segment).decode(), PATH_TYPES[name]))
    except UnicodeDecodeError:
        message = "not UTF-8"
    except msgspec.ValidationError as error:
        message = str(error)
    raise InvalidRequest([(f"path.{name}", message)])
