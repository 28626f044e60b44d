"""Every setting of every process, read from the environment: field `lock_timeout_ms` is `STOCKHOLD_LOCK_TIMEOUT_MS`.

Only the composition root and the command line make a `Settings`; everything else is given what it needs. Units end the
names: `_s` seconds, `_ms` milliseconds, `_hours` hours, `_days` days; a count has none. The descriptions are the
reference in the docs.
"""

from typing import Annotated, Any, Literal

from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict
from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from infra.kafka.probe import addresses

Port = Annotated[int, Field(ge=0, le=65_535)]


class ServerSettings(BaseSettings):
    """Where state is kept. Empty: `stockhold up` runs the server itself."""

    model_config = SettingsConfigDict(env_prefix="STOCKHOLD_", extra="ignore", frozen=True)

    event_store_url: str = Field(
        default="",
        repr=False,
        description="PostgreSQL database of the event log, as postgresql://user:password@host:port/database.",
    )
    read_model_url: str = Field(
        default="",
        repr=False,
        description="PostgreSQL database of the views; the event log's own if empty.",
    )
    redis_url: str = Field(
        default="",
        repr=False,
        description="Redis 7 or Valkey 8 (or later) for the views' cache, as redis://:password@host:port/number.",
    )
    postgres_pool_max: int = Field(
        default=8, ge=2, description="Connections to PostgreSQL that one process may hold in a pool."
    )
    connect_timeout_s: float = Field(
        default=5.0, gt=0, description="How long to wait for a connection to a server before it counts as away."
    )
    statement_timeout_ms: int = Field(
        default=30_000, ge=0, description="PostgreSQL ends a statement of an API process after this time; 0: never."
    )

    @field_validator("event_store_url", "read_model_url")
    @classmethod
    def _names_a_database(cls, url: str) -> str:
        try:
            conninfo_to_dict(url)
        except ProgrammingError:
            raise ValueError("this is no address of a PostgreSQL database") from None  # it may hold a password
        return url

    @field_validator("redis_url")
    @classmethod
    def _names_a_cache(cls, url: str) -> str:
        if url and not url.startswith(("redis://", "rediss://", "unix://")):
            raise ValueError("this is no address of a Redis: it begins with redis://, rediss:// or unix://")
        return url

    @model_validator(mode="before")
    @classmethod
    def _views_beside_the_log(cls, values: dict[str, Any]) -> dict[str, Any]:
        return values | {"read_model_url": values.get("read_model_url") or values.get("event_store_url", "")}


class ProcessSettings(BaseSettings):
    """What a supervisor hands to the processes it starts, and what all of them write."""

    model_config = SettingsConfigDict(env_prefix="STOCKHOLD_", extra="ignore", frozen=True)

    process_name: str = Field(default="stockhold", description="Name of this process in logs, such as command-api-1.")
    listen_fd: int | None = Field(default=None, description="Inherited listening socket of an API process.")
    ready_fd: int | None = Field(default=None, description="Inherited pipe to write `ready` to once the process works.")
    lifeline_fd: int | None = Field(
        default=None,
        description="Inherited pipe whose end means that the supervisor is gone, and this process with it.",
    )
    monitor_fd: int | None = Field(default=None, description="Inherited listening socket of a process's monitor.")
    monitor_port: Port = Field(
        default=0,
        description="Port of the monitor (health and metrics) of a background process run alone; 0: none.",
    )
    host: str = Field(default="127.0.0.1", description="Address to listen on when no socket is inherited.")
    insecure_listen: bool = Field(
        default=False,
        description="Allow a host that other machines can reach, as `--insecure-listen` does: there is no authentication.",
    )
    command_port: Port = Field(default=8000, description="Port of the command API when no socket is inherited.")
    read_port: Port = Field(default=8001, description="Port of the read API when no socket is inherited.")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        default="INFO", description="Least severe log lines to write."
    )
    background_niceness: int = Field(
        default=10,
        ge=0,
        le=19,
        description="How far projector and sweeper step back when processors are scarce (`nice`); 0: not at all.",
    )
    stall_s: float = Field(
        default=30.0, gt=0, description="How long a background process may make no progress before it is started again."
    )
    drain_timeout_s: float = Field(
        default=10.0, gt=0, description="How long requests in flight may take to finish after the order to stop."
    )


class WriteSettings(BaseSettings):
    """The executor, its command API and the sweeper."""

    model_config = SettingsConfigDict(env_prefix="STOCKHOLD_", extra="ignore", frozen=True)

    idempotency_days: int = Field(
        default=7, ge=1, description="How long the outcome of a command is kept under its key."
    )
    refusal_days: int = Field(
        default=90, ge=1, description="How long refused commands are kept: demand that was not met."
    )
    purge_batch: int = Field(
        default=1_000, ge=1, description="Records removed in one transaction once they are too old."
    )
    queue_limit: int = Field(
        default=10_000,
        ge=1,
        description="Commands that may wait in one executor; past it the answer is 503 `overloaded`.",
    )
    batch_limit: int = Field(default=500, ge=1, description="Commands decided in one transaction.")
    identity_map_items: int = Field(
        default=100_000,
        ge=1,
        description="Stock items that one executor keeps in memory (some 1.2 kB each), least recently used out first.",
    )
    known_reservations: int = Field(
        default=50_000,
        ge=1,
        description="Headers of reservations that one executor keeps in memory, least recently used out first.",
    )
    snapshot_every: int = Field(default=200, ge=1, description="Events of one stock item between two snapshots of it.")
    lock_timeout_ms: int = Field(
        default=2_000, ge=1, description="How long a batch waits for the log's append lock before it gives up."
    )
    idle_in_transaction_timeout_ms: int = Field(
        default=5_000,
        ge=1,
        description="PostgreSQL ends a writer that holds the append lock and says nothing for so long.",
    )
    request_deadline_ms: int = Field(
        default=10_000, ge=1, description="How long a command is tried before the answer is 503 `unavailable`."
    )
    optimistic: bool = Field(
        default=True, description="Decide outside the append lock until a conflict is met; false: always under it."
    )
    lock_first_batches: int = Field(
        default=200, ge=1, description="Batches that a process decides under the lock after it met a conflict."
    )
    sweep_interval_ms: int = Field(
        default=500, ge=10, description="How often the sweeper looks for due holds when no timer wakes it earlier."
    )
    sweep_batch: int = Field(default=100, ge=1, description="Due holds released in one transaction.")


class ViewSettings(BaseSettings):
    """The projection and the read API."""

    model_config = SettingsConfigDict(env_prefix="STOCKHOLD_", extra="ignore", frozen=True)

    projection_batch: int = Field(
        default=1_000, ge=1, description="Events that the projection folds in one transaction."
    )
    projection_poll_ms: int = Field(
        default=200, ge=1, description="How often the projection looks for events when no notice wakes it."
    )
    reconcile_interval_ms: int = Field(
        default=1_000, ge=10, description="How often the projection compares its watermarks with the log."
    )
    reconcile_lag_ms: int = Field(
        default=2_000, ge=0, description="Age of an event at which the projection must have seen it by itself."
    )
    refill_batch: int = Field(default=1_000, ge=1, description="Rows per round trip when the cache is refilled.")
    min_version_wait_ms: int = Field(
        default=1_000, ge=0, description="How long a read with `min_version` waits before 503 `not-fresh-enough`."
    )
    min_version_poll_ms: int = Field(
        default=10, ge=1, description="How often a read with `min_version` looks whether the view has come so far."
    )
    redis_timeout_ms: int = Field(
        default=250, ge=1, description="How long a read waits for the cache before PostgreSQL answers instead."
    )
    warehouse_refresh_ms: int = Field(
        default=1_000, ge=10, description="How often each process reads the table of warehouses and the views' pointer."
    )
    page_limit: int = Field(default=100, ge=1, description="Rows on one page of a list that names no limit.")
    page_limit_max: int = Field(default=1_000, ge=1, description="Most rows that a page may have.")


class KafkaSettings(BaseSettings):
    """Kafka, and the processes that stand on it."""

    model_config = SettingsConfigDict(env_prefix="STOCKHOLD_", extra="ignore", frozen=True)

    kafka_servers: str = Field(
        default="",
        description="Brokers, as host:port with commas between; empty: no Kafka, the projection follows the log directly.",
    )
    kafka_prefix: str = Field(
        default="",
        pattern=r"^[A-Za-z0-9._-]{0,64}$",
        description="Before the name of every topic and consumer group: several installations may share a cluster.",
    )
    kafka_jars: str = Field(
        default="",
        description="Folder with the jars of the broker that `up --kafka` starts; empty: Maven brings them into the user's cache.",
    )
    kafka_partitions: int = Field(
        default=8, ge=1, le=1_000, description="Partitions of a topic; fixed once the topics have been created."
    )
    kafka_replication: int = Field(
        default=1, ge=1, le=32_767, description="Copies of each partition that the brokers keep."
    )
    relay_batch_events: int = Field(
        default=500, ge=1, description="Events in one message of the internal topic at most."
    )
    relay_batch_bytes: int = Field(
        default=524_288, ge=1_024, description="Bytes of events in one message of the internal topic at most."
    )
    relay_poll_ms: int = Field(
        default=200, ge=1, description="How often the relay looks for events when no notice wakes it."
    )
    public_source: str = Field(
        default="/stockhold",
        pattern=r"^[A-Za-z0-9/:._~-]{1,200}$",
        description="What the `source` of every public message begins with: a URI, or a part of one, that is this installation's.",
    )
    intake_batch: int = Field(default=500, ge=1, description="Messages that the saga intake takes together.")
    intake_wait_hours: int = Field(
        default=72,
        ge=1,
        description="How long a message may wait for what must come before it; then it is a dead letter.",
    )
    intake_retry_ms: int = Field(
        default=5_000, ge=10, description="How often waiting messages are tried when no other message wakes them."
    )

    @field_validator("kafka_servers")
    @classmethod
    def _names_brokers(cls, servers: str) -> str:
        if servers:
            list(addresses(servers))
        return servers


class Settings(ServerSettings, ProcessSettings, WriteSettings, ViewSettings, KafkaSettings):
    """All of them, read once per process. Raises pydantic.ValidationError for a value that does not fit."""
