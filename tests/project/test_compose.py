"""`compose.yaml`, looked at without starting anything: tests/end_to_end/test_compose.py does that."""

import re
import subprocess
import sys
import tomllib
from typing import Any

import pytest
import yaml

from infra.cli.process import BACKGROUND, DOORS
from infra.embedded.stack import API_STOP_TIMEOUT_S, PROJECTOR, ROLES
from infra.settings import Settings
from tests.support_compose import (
    COMPOSE,
    ROOT,
    composition,
    in_start_order,
    is_ours,
    seconds,
    services,
    size,
    variables,
)

SERVICES = services()
OURS = {name: service for name, service in SERVICES.items() if is_ours(service)}
SERVERS = {name: service for name, service in SERVICES.items() if not is_ours(service)}
PROCESSES = {name: service for name, service in OURS.items() if service.get("command", [""])[0] == "process"}
DIGEST = re.compile(r"^[a-z/]+:[a-z0-9.-]+@sha256:[0-9a-f]{64}$")
HEALTHY, COMPLETED = "service_healthy", "service_completed_successfully"


def test_it_is_a_composition() -> None:
    checker = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(COMPOSE)]
    # A proxy that nobody is: the schema is in the package, and nothing may be fetched.
    checked = subprocess.run(
        checker, capture_output=True, text=True, check=False, env={"HTTPS_PROXY": "http://127.0.0.1:1", "PATH": ""}
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_every_process_of_a_stack_with_kafka_has_its_service() -> None:
    assert set(PROCESSES) == set(ROLES) - {PROJECTOR}
    assert set(OURS) - set(PROCESSES) == {"migrate", "stockhold"}
    assert set(SERVERS) == {"postgres", "valkey", "kafka"}
    for name, service in PROCESSES.items():
        assert service["command"] == ["process", name]
    assert OURS["migrate"]["command"] == ["migrate"]
    assert SERVICES["worker"]["deploy"]["replicas"] == "2"


def test_ours_have_one_image_of_this_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert {service["image"] for service in OURS.values()} == {f"stockhold:{version}"}
    assert {service["build"] for service in OURS.values()} == {"."}


def test_servers_are_pinned_and_there_is_no_zookeeper() -> None:
    for service in SERVERS.values():
        assert DIGEST.fullmatch(service["image"]), service["image"]
    assert SERVERS["kafka"]["environment"]["KAFKA_PROCESS_ROLES"] == "broker,controller"
    assert "zookeeper" not in COMPOSE.read_text().lower().replace("no zookeeper", "")


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_is_bounded(name: str) -> None:
    limits = SERVICES[name]["deploy"]["resources"]["limits"]
    assert float(limits["cpus"]) > 0
    assert size(limits["memory"]) >= 256 * 1024**2
    assert limits["pids"] > 0
    assert SERVICES[name]["restart"] == ("unless-stopped" if name in {*PROCESSES, *SERVERS} else "no")
    assert SERVICES[name]["logging"]["options"] == {"max-size": "10m", "max-file": "5"}


@pytest.mark.parametrize("name", OURS)
def test_ours_have_no_rights_that_they_do_not_need(name: str) -> None:
    service = OURS[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    # Else the process is number 1 of its container, and the kernel gives it no signal that it has no handler for.
    assert service["init"] is True
    assert not {"privileged", "user", "volumes", "network_mode", "cap_add", "entrypoint"} & set(service)


@pytest.mark.parametrize("name", [*PROCESSES, *SERVERS])
def test_whatever_goes_on_running_has_a_health_check_and_time_to_stop(name: str) -> None:
    check = SERVICES[name]["healthcheck"]
    assert check["test"][0] in {"CMD", "CMD-SHELL"}
    assert seconds(check["timeout"]) <= seconds(check["interval"])
    assert {"retries", "start_period", "start_interval"} < set(check)
    grace_s = seconds(SERVICES[name]["stop_grace_period"])
    if name in PROCESSES:
        # First what is in flight, then the executor; the supervisor of `up` waits as long.
        assert grace_s > 2 * Settings.model_fields["drain_timeout_s"].default + 5
        assert grace_s > API_STOP_TIMEOUT_S


def test_health_is_asked_where_it_is_told() -> None:
    for name, service in PROCESSES.items():
        setting = {"command-api": "COMMAND", "read-api": "READ"}.get(name, "MONITOR")
        port = service["environment"][f"STOCKHOLD_{setting}_PORT"]
        url = f"http://127.0.0.1:{port}/readyz"
        assert service["healthcheck"]["test"] == ["CMD", "python", "-S", "-m", "infra.healthcheck", url]


def test_the_start_order() -> None:
    assert OURS["migrate"]["depends_on"] == {"postgres": {"condition": HEALTHY}}
    for name, service in PROCESSES.items():
        needed = {other: how["condition"] for other, how in service["depends_on"].items()}
        assert needed["migrate"] == COMPLETED
        assert needed["postgres"] == HEALTHY
        if name in {"relay", "worker", "publisher", "intake"}:
            assert needed["kafka"] == HEALTHY
        else:
            assert "kafka" not in needed, "what can work without Kafka starts without it"
    order = in_start_order(SERVICES)
    assert order.index("postgres") < order.index("migrate") < order.index("command-api")
    assert order.index("worker") < order.index("read-api")


def test_the_servers_alone_can_be_started() -> None:
    for service in SERVERS.values():
        assert "depends_on" not in service
        assert "profiles" not in service
    assert [name for name, service in SERVICES.items() if "profiles" in service] == ["stockhold"]


def test_ports_are_open_to_this_machine_alone() -> None:
    published = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert sorted(published) == [
        "127.0.0.1:29092:29092",
        "127.0.0.1:5432:5432",
        "127.0.0.1:6379:6379",
        "127.0.0.1:8000:8000",
        "127.0.0.1:8001:8001",
    ]


def test_every_setting_exists_and_fits() -> None:
    for service in OURS.values():
        for name, value in service["environment"].items():
            assert name.removeprefix("STOCKHOLD_").lower() in Settings.model_fields, name
            assert isinstance(value, str), f"{name}: what is no text in YAML is written as YAML pleases"
        values = {name.removeprefix("STOCKHOLD_").lower(): value for name, value in service["environment"].items()}
        settings = Settings(**values)
        assert settings.insecure_listen
        assert settings.host == "0.0.0.0"
        assert settings.kafka_partitions >= int(SERVICES["worker"]["deploy"]["replicas"])
        # Inherited sockets and pipes are a supervisor's.
        assert not {name for name in values if name.endswith("_fd")}


def test_what_can_be_set_from_outside_reaches_its_place() -> None:
    told = {name: f"{name.lower()}x" for name in variables()}
    found = services(told)
    assert "stockhold:postgres_passwordx@postgres:5432" in found["relay"]["environment"]["STOCKHOLD_EVENT_STORE_URL"]
    assert found["postgres"]["environment"]["POSTGRES_PASSWORD"] == "postgres_passwordx"
    assert ":valkey_passwordx@" in found["worker"]["environment"]["STOCKHOLD_REDIS_URL"]
    assert found["valkey"]["command"][-2:] == ["--requirepass", "valkey_passwordx"]
    assert found["valkey"]["environment"] == {"REDISCLI_AUTH": "valkey_passwordx"}
    assert found["kafka"]["environment"]["KAFKA_ADVERTISED_LISTENERS"].endswith("OUTSIDE://127.0.0.1:kafka_portx")
    assert found["command-api"]["ports"] == ["127.0.0.1:command_portx:8000"]
    # Nothing is set by accident by who has Stockhold's own settings in the shell, but the image's tag.
    assert {name for name in variables() if name.startswith("STOCKHOLD_")} == {"STOCKHOLD_TAG"}


def test_what_can_be_set_from_outside_is_documented() -> None:
    text = (ROOT / "docs" / "compose.md").read_text()
    documented = set(re.findall(r"^\| `([A-Z_]+)` \|", text, re.MULTILINE))
    assert documented == variables()
    raw = COMPOSE.read_text()
    for name in variables():
        defaults = set(re.findall(rf"\$\{{{name}:-([^}}]*)\}}", raw))
        assert len(defaults) == 1, name
        assert re.search(rf"^\| `{name}` \| `{re.escape(*defaults)}` \|", text, re.MULTILINE), name


def test_data_lives_in_volumes_with_a_name() -> None:
    mounted = {name: [one.partition(":")[0] for one in service.get("volumes", [])] for name, service in SERVERS.items()}
    assert mounted == {"postgres": ["postgres"], "valkey": [], "kafka": ["kafka"]}
    assert set(composition()["volumes"]) == {"postgres", "kafka"}
    (kafka,) = SERVERS["kafka"]["volumes"]
    assert kafka.partition(":")[2] == SERVERS["kafka"]["environment"]["KAFKA_LOG_DIRS"]


def test_background_processes_and_doors_are_what_the_command_line_takes_them_for() -> None:
    assert set(PROCESSES) >= DOORS
    assert set(PROCESSES) - DOORS - BACKGROUND == {"intake"}  # customers wait for it


def test_nothing_is_said_twice_in_yaml() -> None:
    waiting: list[Any] = [yaml.compose(COMPOSE.read_text())]
    while waiting:
        node = waiting.pop()
        if isinstance(node, yaml.MappingNode):
            keys = [key.value for key, _ in node.value]
            assert len(keys) == len(set(keys)), f"twice the same key in {node.start_mark}"
            waiting += [value for _, value in node.value]
        elif isinstance(node, yaml.SequenceNode):
            waiting += node.value
