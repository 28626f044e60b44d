"""The digest of a request: what makes two requests the same."""

import random
from decimal import Decimal
from typing import Any

import msgspec
from hypothesis import assume, given
from hypothesis import strategies as st

from domain.commands import CommitReservation, CreateReservation, ReleaseReservation, Restock
from domain.values import HoldKind
from write_side.api.bodies import CommandReader
from write_side.submission import request_digest

READER = CommandReader(CreateReservation)
IDS = st.text("abcAB12", min_size=1, max_size=3)
PLAIN = st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=3).filter(lambda text: "\0" not in text)
METADATA = st.dictionaries(
    st.sampled_from(["colour", "größe", "note"]), PLAIN | st.lists(PLAIN, max_size=2) | st.dictionaries(IDS, PLAIN)
)
LINES = st.lists(
    st.fixed_dictionaries(
        {"sku": IDS, "quantity": st.integers(1, 3)},
        optional={"warehouse": st.none() | IDS, "metadata": st.none() | METADATA},
    ),
    min_size=1,
    max_size=2,
)
BODIES = st.fixed_dictionaries(
    {"order_id": IDS, "lines": LINES},
    optional={
        "reservation_id": st.none() | IDS,
        "kind": st.sampled_from(["order", "cart", "manual"]),
        "customer_ref": st.none() | IDS,
        "ttl_seconds": st.integers(1, 3),
        "allocation": st.fixed_dictionaries(
            {},
            optional={
                "strategy": st.sampled_from(["priority", "most_stock"]),
                "allow_split": st.booleans(),
                "allow_partial": st.booleans(),
                "ship_to": st.none() | st.fixed_dictionaries({"latitude": st.just(1), "longitude": st.just(2)}),
            },
        ),
    },
)
DEFAULTS: dict[str, Any] = {
    "reservation_id": None,
    "kind": "order",
    "customer_ref": None,
    "allocation": {"strategy": "priority", "allow_split": True, "allow_partial": False, "ship_to": None},
}


def digest_of(text: bytes) -> bytes:
    return request_digest("reservations.create", READER.read({}, text))


def presented(value: Any, chance: random.Random) -> str:
    """``value`` as JSON, in one of the ways in which the same can be written."""
    space = chance.choice(["", " ", "\n\t"])
    if isinstance(value, dict):
        members = [f"{presented(k, chance)}{space}:{presented(v, chance)}" for k, v in value.items()]
        chance.shuffle(members)
        return "{" + space + f"{space},".join(members) + "}"
    if isinstance(value, list):
        return "[" + space + ",".join(presented(part, chance) for part in value) + "]"
    if isinstance(value, str) and chance.random() < 0.5:
        units = value.encode("utf-16-be", "surrogatepass")
        return '"' + "".join(f"\\u{units[i]:02x}{units[i + 1]:02X}" for i in range(0, len(units), 2)) + '"'
    return msgspec.json.encode(value).decode()


def with_defaults(body: dict[str, Any]) -> dict[str, Any]:
    lines = [{"warehouse": None, "metadata": None} | line for line in body["lines"]]
    allocation = DEFAULTS["allocation"] | body.get("allocation", {})
    return DEFAULTS | body | {"lines": lines, "allocation": allocation}


@given(BODIES, st.randoms(use_true_random=False))
def test_order_white_space_escapes_and_defaults_make_no_difference(body, chance):
    plain = digest_of(msgspec.json.encode(body))
    assert digest_of(presented(body, chance).encode()) == plain
    assert digest_of(presented(with_defaults(body), chance).encode()) == plain


@given(BODIES, BODIES)
def test_what_means_something_else_has_another_digest(one, other):
    assume(with_defaults(one) != with_defaults(other))
    assert digest_of(msgspec.json.encode(one)) != digest_of(msgspec.json.encode(other))


def test_metadata_that_python_takes_for_equal_is_not_the_same():
    body = b'{"order_id":"o","lines":[{"sku":"A","quantity":1,"metadata":{"a":%b}}]}'
    digests = {digest_of(body % value) for value in (b"1", b"true", b"1.0", b'"1"', b"[1]", b"null", b'{"1":1}')}
    assert len(digests) == 7


@given(BODIES, st.data())
def test_every_change_of_one_place_is_seen(body, data):
    changed = with_defaults(body)
    field = data.draw(st.sampled_from(["order_id", "reservation_id", "kind", "customer_ref", "ttl_seconds", "lines"]))
    if field == "lines":
        changed["lines"][0]["quantity"] += 1
    elif field == "kind":
        changed["kind"] = "cart" if changed["kind"] != "cart" else "manual"
    elif field == "ttl_seconds":
        changed["ttl_seconds"] = changed.get("ttl_seconds", 100) + 1
    else:
        changed[field] = (changed[field] or "") + "x"
    assert digest_of(msgspec.json.encode(changed)) != digest_of(msgspec.json.encode(body))


def test_no_end_and_the_policys_end_are_not_the_same():
    forever = CreateReservation(order_id="o", lines=(), kind=HoldKind.MANUAL, ttl_seconds=None)
    by_policy = CreateReservation(order_id="o", lines=(), kind=HoldKind.MANUAL)
    assert request_digest("x", forever) != request_digest("x", by_policy)


def test_operation_and_path_belong_to_it():
    commit = CommitReservation(reservation_id="r-1")
    assert request_digest("reservations.commit", commit) != request_digest("reservations.cancel", commit)
    other = CommitReservation(reservation_id="r-2")
    assert request_digest("reservations.commit", commit) != request_digest("reservations.commit", other)
    release = ReleaseReservation(reservation_id="r-1")
    assert request_digest("reservations.release", release) != request_digest("reservations.commit", commit)


def test_a_cost_is_its_value_and_not_its_zeros():
    def digest(cost: str) -> bytes:
        return request_digest("stock.restock", Restock(sku="A", warehouse="W", quantity=1, unit_cost=Decimal(cost)))

    assert digest("4.9") == digest("4.900000") == digest("0.0049E+3")
    assert digest("0") == digest("-0.00") == digest("0.0")
    assert digest("100") == digest("1E+2")
    assert digest("999999999999.999999") != digest("999999999999.999998")


def test_it_has_16_bytes_and_stays_what_it_was():
    commit = CommitReservation(reservation_id="r-1")
    digest = request_digest("reservations.commit", commit)
    assert len(digest) == 16
    # Digests are compared with those of records and events: a change here breaks honest repeats.
    assert digest.hex() == "85ff095f9795f8c56f46703d030a9706"
