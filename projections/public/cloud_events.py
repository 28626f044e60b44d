"""The envelope of a public message: CloudEvents 1.0, structured mode, JSON."""

from collections.abc import Callable
from datetime import datetime
from typing import Final, Literal, NamedTuple

import msgspec
from msgspec import UNSET, UnsetType

from domain.events import Origin
from infra.documents import encode
from infra.kafka.topics import MESSAGE_BYTES_MAX
from projections.public.documents import Data

HEADERS: Final = (("content-type", b"application/cloudevents+json; charset=UTF-8"),)
"""What the Kafka binding of CloudEvents asks of a structured message."""
VALUE_BYTES_MAX: Final = MESSAGE_BYTES_MAX - 16_384
"""The largest value: what Kafka adds to it (key, headers, the batch's own fields) must fit as well."""
FIRST_EPOCH: Final = 1


class CloudEvent(msgspec.Struct, frozen=True, gc=False):
    """One message. ``sequence``: the version of its stock item; contiguous for ``inventory.stock-updated``."""

    id: str
    source: str
    type: str
    time: datetime
    subject: str
    data: Data
    specversion: Literal["1.0"] = "1.0"
    datacontenttype: Literal["application/json"] = "application/json"
    sequence: int | UnsetType = UNSET
    correlationid: str | UnsetType = UNSET
    causationid: str | UnsetType = UNSET


class PublicMessage(NamedTuple):
    """A message for the topic ``topic`` (without the installation's prefix), in order with all others of ``key``."""

    topic: str
    key: str
    id: str
    source: str
    value: bytes


class Envelopes:
    """Makes messages of one installation, of one log.

    A message's source is ``{source}/{type}``, so that source and id together name a message whatever its type. A log that
    was restored (a higher epoch) may use a version again for another event: then the source says the epoch, too.
    """

    def __init__(self, source: str, epoch: int = FIRST_EPOCH) -> None:
        self._source = source
        self._ending = "" if epoch == FIRST_EPOCH else f"?epoch={epoch}"

    def message(
        self,
        topic: str,
        key: str,
        message_id: str,
        *,
        time: datetime,
        subject: str,
        origin: Origin,
        data: Data,
        sequence: int | UnsetType = UNSET,
        smaller: Callable[[Data], Data | None] = lambda _: None,
    ) -> PublicMessage:
        """``smaller``: the data with less in it, tried until the message fits; None: there is nothing to leave out."""
        event = CloudEvent(
            id=message_id,
            source=f"{self._source}/{topic}{self._ending}",
            type=topic,
            time=time,
            subject=subject,
            data=data,
            sequence=sequence,
            correlationid=origin.correlation_id or UNSET,
            causationid=origin.causation_id or UNSET,
        )
        value = encode(event)
        while len(value) > VALUE_BYTES_MAX and (less := smaller(event.data)) is not None:
            event = msgspec.structs.replace(event, data=less)
            value = encode(event)
        return PublicMessage(topic, key, event.id, event.source, value)
