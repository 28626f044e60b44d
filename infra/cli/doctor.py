"""`stockhold doctor`: what is reachable, what lags, what is stuck."""

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer

from infra.cli.shared import EXIT_CHECK_FAILED, DataOption, JsonOption, answer, load_settings, stack_urls

if TYPE_CHECKING:
    from infra.doctor_kafka import KafkaPlace
    from infra.embedded.servers import ServerUrls
    from projections.generations import Generation


def doctor(data: DataOption = None, json: JsonOption = False) -> None:
    """Look at everything a stack depends on, and say what is not well. Changes nothing."""
    from infra.doctor import examine
    from projections.inspection import inspect_generations

    with stack_urls(data) as urls:
        generations, about_them = asyncio.run(inspect_generations(urls.read_model_url))
        kafka = _kafka(urls, generations)
        findings = examine(urls.event_store_url, urls.read_model_url, urls.redis_url, kafka) + about_them
    lines = [f"{'ok  ' if finding.well else 'NOT '} {finding.check}: {finding.seen}" for finding in findings]
    well = all(finding.well for finding in findings)
    answer({"well": well, "findings": [f._asdict() for f in findings]}, "\n".join(lines), as_json=json)
    if not well:
        raise typer.Exit(EXIT_CHECK_FAILED)


def _kafka(urls: "ServerUrls", generations: "Sequence[Generation]") -> "KafkaPlace | None":
    """The brokers and who reads them; None in a stack without Kafka."""
    if not urls.kafka_servers:
        return None
    from infra.doctor_kafka import Group, KafkaPlace
    from infra.kafka.topics import INTAKE_TOPICS, Topics
    from projections.public.runner import GROUP as PUBLISHER
    from projections.worker import Feed
    from write_side.intake.intake import GROUP as INTAKE

    settings = load_settings()
    topics = Topics(settings.kafka_prefix, settings.kafka_partitions)
    groups = [
        Group(topics.named(INTAKE), [topics.named(topic) for topic in INTAKE_TOPICS]),
        Group(topics.named(PUBLISHER), [topics.stock_events]),
    ]
    for generation in generations:
        # What is older than a group is in the log, from where its workers read it.
        name = topics.named(f"{Feed.group}.{generation.redis_prefix}")
        groups.append(Group(name, [topics.stock_events], from_oldest=False))
    return KafkaPlace(urls.kafka_servers, topics, groups)
