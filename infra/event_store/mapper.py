"""Events to stored bytes and back: msgspec JSON, a closed table of topics, upcasting.

The library's own mapper resolves a topic by importing whatever module the stored string names;
here a topic is looked up in a table, and one that is not there is an :class:`UnknownTopic`.
"""

from collections.abc import Iterable
from typing import Any

import msgspec
from eventsourcing.persistence import StoredEvent

from domain.events import EVENT_CLASSES, Event


class UnreadableEvent(Exception):
    """A stored event that this code cannot turn into an event: a dead letter, with the reason."""


class UnknownTopic(UnreadableEvent):
    """No event class has this topic."""


class EventMapper:
    """Maps the events of ``classes``; their topics must differ.

    An event whose class has ``class_version`` N > 1 is stored with ``"class_version": N``. When it is
    read and was stored with less, its JSON object goes through the class's static methods
    ``upcast_v1_v2``, ``upcast_v2_v3`` … in turn, each changing the object in place.
    """

    def __init__(self, classes: Iterable[type[Event]] = EVENT_CLASSES) -> None:
        self._encoder = msgspec.json.Encoder()
        self._decoders: dict[str, msgspec.json.Decoder[Any]] = {}
        self._versioned: dict[str, type[Event]] = {}
        for event_class in classes:
            if event_class.TOPIC in self._decoders:
                raise ValueError(f"two event classes with the topic {event_class.TOPIC}")
            self._decoders[event_class.TOPIC] = msgspec.json.Decoder(event_class)
            if event_class.class_version > 1:
                self._versioned[event_class.TOPIC] = event_class

    def encode(self, event: Event) -> bytes:
        """The stored state of ``event``: a JSON object of its fields."""
        if event.class_version == 1:
            return self._encoder.encode(event)
        state = msgspec.to_builtins(event, builtin_types=()) | {"class_version": event.class_version}
        return self._encoder.encode(state)

    def decode(self, topic: str, state: bytes) -> Any:
        """The event that was stored. Raises :class:`UnreadableEvent` if it cannot be read."""
        decoder = self._decoders.get(topic)
        if decoder is None:
            raise UnknownTopic(f"no event class has the topic {topic!r}")
        try:
            if topic in self._versioned:
                return self._upcast(self._versioned[topic], state)
            if _VERSION_FIELD in state:  # perhaps only in a text of it
                _stored_version(topic, 1, msgspec.json.decode(state))
            return decoder.decode(state)
        except (msgspec.MsgspecError, AttributeError, KeyError, TypeError, ValueError) as error:
            raise UnreadableEvent(f"{topic}: {error}") from error

    def to_stored_event(self, event: Event) -> StoredEvent:
        """``event`` as the library's recorders take it."""
        return StoredEvent(event.originator_id, event.originator_version, event.TOPIC, self.encode(event))

    def to_event(self, stored: StoredEvent) -> Any:
        """The event of a row of the library's recorders. Raises :class:`UnreadableEvent`."""
        return self.decode(stored.topic, stored.state)

    @staticmethod
    def _upcast(event_class: type[Event], state: bytes) -> Any:
        fields = msgspec.json.decode(state)
        stored_version = _stored_version(event_class.TOPIC, event_class.class_version, fields)
        for version in range(stored_version, event_class.class_version):
            getattr(event_class, f"upcast_v{version}_v{version + 1}")(fields)
        return msgspec.convert(fields, event_class, strict=False)


_VERSION_FIELD = b'"class_version":'


def _stored_version(topic: str, known: int, fields: dict[str, Any]) -> int:
    """Take the version out of a stored event's fields. Raises UnreadableEvent if it is later than is known here.

    After a rollback of the code the log may hold such events: better a dead letter than a guess.
    """
    stored = fields.pop("class_version", 1)
    if type(stored) is not int or not 1 <= stored <= known:
        raise UnreadableEvent(f"{topic}: stored as version {stored}, known up to version {known}")
    return stored
