"""The command API on real sockets: the errors of the contract, its headers, and HTTP's corners."""

import re

import msgspec
import pytest
import pytest_asyncio

from infra.problems import problem
from tests.command_api import Api as AnyApi
from tests.command_api import ScriptedExecutor, command_api
from write_side.submission import Answer

ORDER = '{"order_id":"o-1","lines":[{"sku":"A","quantity":1}]}'
Api = AnyApi[ScriptedExecutor]
UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared_api():
    """Starting and stopping a server takes longer than most of these tests."""
    async with command_api(ScriptedExecutor()) as running:
        yield running


@pytest.fixture
def api(shared_api: Api) -> Api:
    """An API that nobody has asked before."""
    executor = shared_api.executor
    vars(executor).update(vars(ScriptedExecutor()))
    shared_api.fast.clear()
    return shared_api


# Answers ---------------------------------------------------------------------------------------------


async def test_a_create(api: Api):
    reply = await api.post("/v1/reservations", ORDER, idempotency_key="k-1", x_actor="till-3")
    assert reply.status == 201
    assert reply.headers["content-type"] == "application/json"
    assert reply.headers["idempotency-key"] == "k-1"
    assert "idempotency-replayed" not in reply.headers
    assert reply.json["command"] == "CreateReservation"
    assert reply.json["actor"] == "till-3"
    assert api.fast == [b"/v1/reservations"]


@pytest.mark.parametrize(
    ("method", "target", "body", "command"),
    [
        ("POST", "/v1/reservations", ORDER, "CreateReservation"),
        ("POST", "/v1/reservations/r-1/commit", None, "CommitReservation"),
        ("POST", "/v1/reservations/r-1/release", "{}", "ReleaseReservation"),
        ("POST", "/v1/reservations/r-1/extend", '{"add_seconds":60}', "ExtendReservation"),
        ("POST", "/v1/reservations/r-1/ship", '{"tracking":"1Z"}', "ShipReservation"),
        ("POST", "/v1/reservations/r-1/cancel", "", "CancelReservation"),
        (
            "POST",
            "/v1/reservations/r-1/return",
            '{"lines":[{"sku":"A","warehouse":"W","quantity":1,"condition":"SELLABLE"}]}',
            "ReturnReservation",
        ),
        ("PUT", "/v1/warehouses/FRA1", '{"priority":1}', "PutWarehouse"),
        ("POST", "/v1/stock/A/W/restock", '{"quantity":1}', "Restock"),
        ("POST", "/v1/stock/A/W/adjust", '{"delta":0,"reason":"FOUND"}', "Adjust"),
        ("POST", "/v1/stock/A/W/count", '{"counted":0}', "CountStock"),
        ("POST", "/v1/stock/A/W/damage", '{"quantity":1}', "Damage"),
        ("POST", "/v1/stock/A/W/repair", '{"quantity":1}', "Repair"),
        ("POST", "/v1/stock/A/W/write-off", '{"quantity":1}', "WriteOff"),
        ("POST", "/v1/stock/A/W/return", '{"quantity":1,"condition":"DAMAGED"}', "ReturnStock"),
        ("PUT", "/v1/stock/A/W/policy", '{"safety_stock":1}', "ChangePolicy"),
    ],
)
async def test_every_call_of_the_contract(api: Api, method, target, body, command):
    reply = await api.ask(method, target, body)
    assert reply.status == 201, reply.raw
    assert reply.json["command"] == command
    assert UUID.fullmatch(reply.headers["idempotency-key"])


async def test_what_path_and_body_say_arrives(api: Api):
    reply = await api.post(
        "/v1/stock/SKU%3A1/W/restock", '{"quantity":3,"unit_cost":0.10,"note":"\u00fc"}', x_correlation_id="c-1"
    )
    fields = reply.json["fields"]
    assert (fields["sku"], fields["warehouse"], fields["quantity"]) == ("SKU:1", "W", 3)
    assert (fields["unit_cost"], fields["note"]) == ("0.10", "\u00fc")
    assert reply.json["correlation_id"] == "c-1"


async def test_a_repeat_is_replayed_and_another_body_refused(api: Api):
    first = await api.post("/v1/reservations", ORDER, idempotency_key="k-1")
    again = await api.post("/v1/reservations", f" {ORDER}\n", idempotency_key="k-1")
    assert (again.status, again.body) == (first.status, first.body)
    assert again.headers["idempotency-replayed"] == "true"
    other = await api.post("/v1/reservations", ORDER.replace("1}", "2}"), idempotency_key="k-1")
    assert (other.status, other.code) == (409, "idempotency-key-reused")


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("unknown-reservation", 404),
        ("insufficient-stock", 409),
        ("reservation-expired", 410),
        ("version-mismatch", 412),
        ("unavailable", 503),
        ("internal", 500),
    ],
)
async def test_the_outcome_decides_status_type_and_retry_after(code, status):
    executor = ScriptedExecutor(lambda _: Answer(*problem(code, "as the script says")))
    async with command_api(executor) as api:
        for target in ("/v1/reservations/r-1/commit", "/v1/reservations/r-1/extend"):
            body = None if target.endswith("commit") else '{"add_seconds":1}'
            reply = await api.post(target, body, idempotency_key=target)
            assert (reply.status, reply.code) == (status, code)
            assert reply.headers["idempotency-key"] == target
            assert ("retry-after" in reply.headers) == (status == 503)


async def test_only_create(api: Api):
    for headers, only_create in (({"if_none_match": "*"}, True), ({}, False)):
        reply = await api.ask("PUT", "/v1/warehouses/W", "{}", [(n.replace("_", "-"), v) for n, v in headers.items()])
        assert reply.json["fields"]["only_create"] is only_create


async def test_a_batch(api: Api):
    body = f'{{"reservations":[{ORDER},{{"order_id":7}},{ORDER}]}}'
    reply = await api.post("/v1/reservations:batch", body, idempotency_key="b")
    assert reply.status == 200
    assert [result["status"] for result in reply.json["results"]] == [201, 422, 201]
    assert [result["body"].get("key") for result in reply.json["results"]] == ["b#0", None, "b#2"]


async def test_a_thousand_and_no_more(api: Api):
    body = '{"reservations":[' + ",".join([ORDER] * 1_000) + "]}"
    assert len((await api.post("/v1/reservations:batch", body)).json["results"]) == 1_000
    too_many = '{"reservations":[' + ",".join([ORDER] * 1_001) + "]}"
    assert (await api.post("/v1/reservations:batch", too_many)).code == "invalid-request"
    assert len(api.executor.submitted) == 1_000


# Refusals at the door --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "body", "path"),
    [
        ("/v1/reservations", '{"order_id":"o","lines":[{"sku":"A","quantity":-1}]}', "$.lines[0].quantity"),
        ("/v1/reservations", '{"order_id":"o","lines":[{"sku":"A","quantity":1.5}]}', "$.lines[0].quantity"),
        (
            "/v1/reservations",
            '{"order_id":"o","lines":[{"sku":"A","quantity":9007199254740992}]}',
            "$.lines[0].quantity",
        ),
        ("/v1/reservations", '{"order_id":"o\u00e4","lines":[{"sku":"A","quantity":1}]}', "$.order_id"),
        ("/v1/reservations", '{"order_id":"o","lines":[{"sku":"A","quantity":1}],"extra":1}', "$"),
        ("/v1/reservations", "not json", "$"),
        ("/v1/reservations", "", "$"),
        ("/v1/reservations/r%201/commit", None, "path.reservation_id"),
        ("/v1/reservations/r%2F1/commit", None, "path.reservation_id"),
        ("/v1/reservations/%FF/commit", None, "path.reservation_id"),
        ("/v1/reservations/-/commit", None, "path.reservation_id"),
        ("/v1/stock/A/B:C/restock", '{"quantity":1}', "path.warehouse"),
        ("/v1/stock/A/B%3AC/restock", '{"quantity":1}', "path.warehouse"),
    ],
)
async def test_an_invalid_request(api: Api, target, body, path):
    reply = await api.post(target, body, idempotency_key="k-7")
    assert (reply.status, reply.code) == (422, "invalid-request")
    assert [error["path"] for error in reply.json["errors"]] == [path]
    assert reply.headers["idempotency-key"] == "k-7"
    assert api.executor.submitted == []


@pytest.mark.parametrize("key", ["", "k" * 129, "schl\u00fcssel"])
async def test_a_bad_key(api: Api, key):
    reply = await api.post("/v1/reservations", ORDER, idempotency_key=key)
    assert (reply.status, reply.code) == (422, "invalid-request")
    assert [error["path"] for error in reply.json["errors"]] == ["header.idempotency-key"]
    assert UUID.fullmatch(reply.headers["idempotency-key"])


async def test_keys_that_contradict_each_other(api: Api):
    reply = await api.ask("POST", "/v1/reservations", ORDER, [("Idempotency-Key", "a"), ("Idempotency-Key", "b")])
    assert reply.code == "invalid-request"


async def test_no_such_route(api: Api):
    for target in (
        "/",
        "/v1",
        "/v2/reservations",
        "/v1/reservations/",
        "/v1/reservations/a/b/commit",
        "/V1/reservations",
    ):
        reply = await api.post(target, ORDER, idempotency_key="k")
        assert (reply.status, reply.code) == (404, "not-found")
        assert reply.headers["idempotency-key"] == "k"


@pytest.mark.parametrize(
    ("method", "target", "allow"),
    [
        ("GET", "/v1/reservations", "POST"),
        ("DELETE", "/v1/reservations/r-1/commit", "POST"),
        ("OPTIONS", "/v1/reservations", "POST"),
        ("HEAD", "/v1/reservations", "POST"),
        ("POST", "/v1/warehouses/W", "PUT"),
        ("PATCH", "/v1/stock/A/W/policy", "PUT"),
        ("POST", "/healthz", "GET, HEAD"),
    ],
)
async def test_a_method_that_is_not_allowed(api: Api, method, target, allow):
    reply = await api.ask(method, target)
    assert reply.status == 405
    assert reply.headers["allow"] == allow
    if method != "HEAD":
        assert reply.code == "method-not-allowed"


@pytest.mark.parametrize(
    "media_type", ["text/plain", "application/x-www-form-urlencoded", "application/json; charset=x"]
)
async def test_a_body_that_is_not_json(api: Api, media_type):
    for target in ("/v1/reservations", "/v1/reservations?slowly"):
        reply = await api.post(target, ORDER, content_type=media_type)
        assert (reply.status, reply.code) == (415, "unsupported-media-type")


async def test_a_full_queue():
    async with command_api(ScriptedExecutor(limit=0)) as api:
        reply = await api.post("/v1/reservations", ORDER, idempotency_key="k")
        assert (reply.status, reply.code) == (503, "overloaded")
        assert reply.headers["retry-after"] == "1"
        assert reply.headers["idempotency-key"] == "k"
        batch = await api.post("/v1/reservations:batch", f'{{"reservations":[{ORDER}]}}', idempotency_key="k")
        assert (batch.status, batch.code) == (503, "overloaded")


async def test_a_fault_of_ours(caplog):
    class Broken(ScriptedExecutor):
        def submit(self, submission):
            raise RuntimeError("the secret of the house")

    async with command_api(Broken()) as api:
        for target in ("/v1/reservations", "/v1/reservations?slowly"):
            reply = await api.post(target, ORDER, idempotency_key="k")
            assert (reply.status, reply.code) == (500, "internal")
            assert b"secret" not in reply.raw
            assert reply.headers["idempotency-key"] == "k"
    assert caplog.text.count("RuntimeError: the secret of the house") == 2


# Both lanes ------------------------------------------------------------------------------------------

GOOD = [
    ("/v1/reservations", ORDER),
    (
        "/v1/reservations",
        '{"order_id":"o","lines":[{"sku":"A","quantity":2,"metadata":{"\u00e4":[1]}}],"ttl_seconds":5}',
    ),
    ("/v1/reservations/r-1/commit", None),
    ("/v1/reservations/r-1/commit", '{"lines":[{"sku":"A","quantity":1}]}'),
    ("/v1/reservations/r-1/release", '{"reason":"PAYMENT_FAILED"}'),
    ("/v1/reservations/r-1/ship", '{"tracking":"x"}'),
    ("/v1/reservations:batch", f'{{"reservations":[{ORDER},{{}}]}}'),
    ("/v1/stock/A:1/W.x/restock", '{"quantity":1,"unit_cost":"4.90"}'),
]
BAD = [
    ("/v1/reservations", ""),
    ("/v1/reservations", "nonsense"),
    ("/v1/reservations", '{"order_id":"o","lines":[{"sku":"A","quantity":0}]}'),
    ("/v1/reservations", '{"order_id":"o","lines":[{"sku":"A","quantity":1,"metadata":{"a":"\\u0000"}}]}'),
    ("/v1/reservations/~/commit", None),
    ("/v1/reservations/r-1/commit", '{"reservation_id":"r-1"}'),
    ("/v1/reservations/r-1/release", '{"reason":"EXPIRED"}'),
    ("/v1/reservations:batch", '{"reservations":[]}'),
    ("/v1/stock/A/W:x/restock", '{"quantity":1}'),
]
HEADERS = [
    [],
    [("Idempotency-Key", "k" * 128), ("X-Actor", "m\u00fcller"), ("X-Correlation-Id", "c-1")],
    [("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")],
    [("Idempotency-Key", "k" * 129)],
    [("X-Actor", "")],
    [("Content-Type", "text/plain")],
    [("Content-Type", "application/json;charset=UTF-8")],
    [("Connection", "close")],
]


@pytest.mark.parametrize("headers", HEADERS, ids=str)
async def test_both_lanes_answer_the_same_bytes(api: Api, headers):
    for target, body in GOOD + BAD:
        fast = await asked_for_the_first_time(api, target, body, headers)
        assert api.fast == [target.encode()]
        slow = await asked_for_the_first_time(api, f"{target}?", body, headers)  # a query is not for the fast lane
        assert api.fast == []
        assert masked(fast) == masked(slow), target


async def asked_for_the_first_time(api: Api, target: str, body: str | None, headers: list[tuple[str, str]]) -> bytes:
    api.executor.recorded.clear()
    api.fast.clear()
    return (await api.ask("POST", target, body, headers)).raw


def masked(raw: bytes) -> bytes:
    """Without what is made anew each time: the date, and keys that nobody gave."""
    return re.sub(rb"date: [^\r]*\r\n|" + UUID.pattern.encode(), b"", raw)


# What operators ask ----------------------------------------------------------------------------------


async def test_alive_and_ready(api: Api):
    assert (await api.ask("GET", "/healthz")).status == 200
    assert (await api.ask("HEAD", "/healthz")).status == 200
    assert (await api.ask("GET", "/readyz")).status == 200
    api.executor.ready = False
    assert (await api.ask("GET", "/healthz")).status == 200
    reply = await api.ask("GET", "/readyz")
    assert (reply.status, reply.code) == (503, "unavailable")
    assert "event_store" in reply.json["detail"]
    assert reply.headers["retry-after"] == "1"


async def figures(api: Api) -> dict[str, float]:
    text = (await api.ask("GET", "/metrics")).body.decode()
    lines = (line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, value in lines}


async def test_figures(api: Api):
    before = await figures(api)
    await api.post("/v1/reservations", ORDER)
    await api.post("/v1/reservations", "bad")
    await api.post("/v1/reservations/r-1/extend", '{"add_seconds":1}')
    after = await figures(api)
    name = 'stockhold_command_requests_total{operation="%s",process="stockhold",status="%d"}'
    for operation, status in (("reservations.create", 201), ("reservations.create", 422), ("reservations.extend", 201)):
        assert after[name % (operation, status)] == before.get(name % (operation, status), 0) + 1
    assert after["process_cpu_seconds_total"] >= before["process_cpu_seconds_total"]


async def test_the_document_and_the_page(api: Api):
    document = await api.ask("GET", "/openapi.json")
    assert "/v1/reservations:batch" in msgspec.json.decode(document.body)["paths"]
    page = await api.ask("GET", "/docs")
    assert page.headers["content-type"].startswith("text/html")
    assert b"/v1/reservations:batch" in page.body
