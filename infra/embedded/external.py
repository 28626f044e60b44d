"""Servers that somebody else runs: are they there, and new enough?"""

import psycopg
import redis

from infra.embedded.errors import StackError
from infra.kafka.probe import addresses, broker_answers

POSTGRES_OLDEST = 15
REDIS_OLDEST = 7
CONNECT_TIMEOUT_S = 10


def check_postgres(setting: str, url: str) -> None:
    """Raises StackError, which names the setting and not the URL: there is a password in it."""
    try:
        with psycopg.connect(url, connect_timeout=CONNECT_TIMEOUT_S) as connection:
            version = connection.info.server_version // 10_000
    except psycopg.Error as error:
        raise StackError(f"no PostgreSQL at {setting}: {error}") from error
    if version < POSTGRES_OLDEST:
        raise StackError(f"PostgreSQL {version} at {setting} is too old: {POSTGRES_OLDEST} is the oldest that will do")


def check_redis(setting: str, url: str) -> None:
    """Raises StackError. Valkey calls itself Redis 7.2, whatever its own version is."""
    try:
        with redis.Redis.from_url(url, socket_timeout=CONNECT_TIMEOUT_S) as client:
            version = str(client.info("server")["redis_version"])
    except (redis.RedisError, ValueError) as error:
        raise StackError(f"no Redis or Valkey at {setting}: {error}") from error
    if int(version.partition(".")[0]) < REDIS_OLDEST:
        raise StackError(f"Redis {version} at {setting} is too old: {REDIS_OLDEST} is the oldest that will do")


def check_kafka(setting: str, servers: str) -> None:
    """One of the brokers is enough: it knows the others. Raises StackError."""
    problems = []
    for host, port in addresses(servers):
        try:
            if broker_answers(host, port, CONNECT_TIMEOUT_S):
                return
        except OSError as error:
            problems.append(f"{host}:{port}: {error}")
        else:
            problems.append(f"{host}:{port}: it is still starting, or no Kafka")
    raise StackError(f"no Kafka at {setting}: {'; '.join(problems)}")
