"""Clients of Redis or Valkey for whoever writes the views' cache; the read API has a pipeline of its own."""

from redis.asyncio import Redis
from redis.exceptions import RedisError

AWAY = (RedisError, OSError, TimeoutError)
"""What a call raises when the server is away, restarting, loading, or does not answer in time."""


def connect_redis(url: str, *, timeout_s: float = 5.0) -> Redis:
    """A client that connects at its first call, answers in bytes and never repeats a call by itself.

    ``url`` as ``redis://:password@host:port/number``. Close it with ``await client.aclose()``.
    """
    # Who calls knows whether a repeat is harmless; a repeat behind its back could come after a flush.
    client: Redis = Redis.from_url(
        url, socket_timeout=timeout_s, socket_connect_timeout=timeout_s, retry_on_timeout=False, retry=None
    )
    return client
