import re

import pytest
from pydantic import ValidationError

from infra.settings import Settings

UNITS = {"s", "ms", "hours", "days"}


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for field in Settings.model_fields:
        monkeypatch.delenv(f"STOCKHOLD_{field.upper()}", raising=False)


def test_defaults_stand_without_any_environment() -> None:
    settings = Settings()
    assert settings.idempotency_days == 7
    assert settings.listen_fd is None


def test_a_setting_is_read_from_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STOCKHOLD_LOCK_TIMEOUT_MS", "123")
    assert Settings().lock_timeout_ms == 123


def test_the_views_live_beside_the_log_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STOCKHOLD_EVENT_STORE_URL", "postgresql://log")
    assert Settings().read_model_url == "postgresql://log"
    monkeypatch.setenv("STOCKHOLD_READ_MODEL_URL", "postgresql://views")
    assert Settings().read_model_url == "postgresql://views"


@pytest.mark.parametrize(
    ("name", "value"),
    [("IDEMPOTENCY_DAYS", "0"), ("COMMAND_PORT", "65536"), ("QUEUE_LIMIT", "many"), ("LOG_LEVEL", "LOUD")],
)
def test_a_value_that_does_not_fit_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"STOCKHOLD_{name}", value)
    with pytest.raises(ValidationError, match=name.lower()):
        Settings()


def test_addresses_hold_passwords_and_are_not_shown() -> None:
    assert "secret" not in repr(Settings(event_store_url="postgresql://u:secret@h/d", redis_url="redis://:secret@h/0"))


def test_every_setting_is_described_and_every_time_names_its_unit() -> None:
    for name, field in Settings.model_fields.items():
        assert field.description, name
        assert field.description.endswith("."), name
        if re.search(r"timeout|ttl|interval|deadline|wait|lag|poll|refresh", name):
            assert name.rpartition("_")[2] in UNITS, name
