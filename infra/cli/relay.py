"""`stockhold relay`: publish the log to Kafka up to where it ends now, from a position if need be, and wait for that."""

import asyncio
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated

import typer

from infra.cli.shared import (
    EXIT_CHECK_FAILED,
    EXIT_UNREACHABLE,
    DataOption,
    JsonOption,
    Refusal,
    answer,
    load_settings,
    progress,
    say,
    stack_urls,
)

if TYPE_CHECKING:
    from write_side.relay import RelayOptions
    from write_side.relay_again import Published


def relay(
    after: Annotated[
        int | None,
        typer.Option(
            "--from", min=0, metavar="POSITION", help="Publish everything after this position again; 0: the whole log."
        ),
    ] = None,
    data: DataOption = None,
    json: JsonOption = False,
) -> None:
    """Publish what the log holds at this moment to Kafka, and end when the brokers have it.

    The stack's relay does so by itself; this is for after a topic was deleted, or when that relay cannot run. If one runs,
    it does the work. What was published before is published again, which nobody takes for new.
    """
    from infra.bootstrap import relay_options

    with stack_urls(data) as urls:
        servers = urls.kafka_servers or load_settings().kafka_servers
        if not servers:
            raise Refusal(
                "there is no Kafka here: set STOCKHOLD_KAFKA_SERVERS, or name the folder of a stack that runs with --kafka"
            )
        settings = load_settings(event_store_url=urls.event_store_url, kafka_servers=servers)
        began_s = time.monotonic()
        published = _publish(relay_options(settings), after)
        took_s = time.monotonic() - began_s
    facts = {**published._asdict(), "seconds": round(took_s, 3)}
    answer(facts, f"published: what follows {published.after:,}, up to {published.upto:,}", as_json=json)


def _publish(options: "RelayOptions", after: int | None) -> "Published":
    from aiokafka.errors import KafkaError

    from infra.kafka.admin import TopicMismatch, TopicRefused
    from infra.kafka.clients import BrokerAway, quiet_kafka_loggers
    from write_side.relay_again import BeyondHead, publish_to_head

    quiet_kafka_loggers()
    if after is not None:
        say(f"publishing again what follows position {after:,}")
    with ExitStack() as shown:

        def begun(goal: "Published") -> Callable[[int], None]:
            return shown.enter_context(progress("positions published", max(0, goal.upto - goal.after))).advance

        try:
            return asyncio.run(publish_to_head(options, after, begun))
        except BeyondHead as error:
            raise Refusal(f"position {after} is not in the log: {error}") from error
        except (TopicMismatch, TopicRefused) as error:
            raise Refusal(str(error), EXIT_CHECK_FAILED) from error
        except (BrokerAway, KafkaError) as error:
            raise Refusal(f"Kafka: {error}", EXIT_UNREACHABLE) from error
