"""What the relay counts, for Prometheus; its lag is looked at by every relay, whether it leads or stands by."""

import asyncio
from contextlib import suppress
from typing import Final

from prometheus_client import Counter, Gauge, Histogram

from infra.event_store.relay_checkpoints import RelayCheckpoints
from infra.postgres import ConnectionLost, StatementFailed

LEADS = Gauge("stockhold_relay_leads", "Whether this process publishes the log (1) or stands by (0).")
LAG_EVENTS = Gauge("stockhold_relay_lag_events", "Positions of the log that are not published yet.")
LAG_SECONDS = Gauge(
    "stockhold_relay_lag_seconds", "Age of the oldest event that is not published yet; 0: there is none."
)
EVENTS = Counter("stockhold_relay_events", "Events published and acknowledged.")
MESSAGES = Counter("stockhold_relay_messages", "Messages published and acknowledged.")
BYTES = Counter("stockhold_relay_bytes", "Bytes of the messages published and acknowledged.")
FLUSH_SECONDS = Histogram(
    "stockhold_relay_flush_seconds",
    "From sending what was read to the acknowledgement of all of it.",
    buckets=(0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10),
)
INTERRUPTIONS = Counter("stockhold_relay_interruptions", "Terms that ended because a server was away or refused.")

LOOK_S: Final = 1.0


async def watch_lag(event_store_url: str, topic: str, *, every_s: float = LOOK_S, timeout_s: float = 5.0) -> None:
    """Keep the lag's gauges up to date until cancelled, on a connection of its own: a relay that is stuck shows."""
    while True:
        with suppress(ConnectionLost, StatementFailed):  # whoever relays says so
            checkpoints = await RelayCheckpoints.connect(event_store_url, topic, timeout_s=timeout_s)
            try:
                while True:
                    lag = await checkpoints.lag()
                    if lag is not None:
                        LAG_EVENTS.set(lag.events)
                        LAG_SECONDS.set(lag.seconds)
                    await asyncio.sleep(every_s)
            finally:
                await checkpoints.close()
        await asyncio.sleep(every_s)
