"""What the headers of a request say, and what is made of those that say nothing sensible."""

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from write_side.api.caller import Caller

TRACE = b"0af7651916cd43dd8448eb211c80319c"
PARENT = b"b7ad6b7169203331"


def caller(**headers: bytes) -> Caller:
    return Caller([(name.replace("_", "-").encode(), value) for name, value in headers.items()])


def test_nobody_in_particular():
    nobody = caller(host=b"here", accept=b"*/*")
    assert uuid.UUID(nobody.key).version == 7
    assert (nobody.actor, nobody.correlation_id, nobody.only_create, nobody.errors) == ("anonymous", None, False, [])


def test_somebody():
    somebody = caller(
        idempotency_key=b"order 7 / try 1",
        x_actor="müller-7".encode(),
        x_correlation_id=b"saga-1",
        content_type=b"application/json",
        if_none_match=b"*",
    )
    assert somebody.key == "order 7 / try 1"
    assert (somebody.actor, somebody.correlation_id) == ("müller-7", "saga-1")
    assert (somebody.media_type, somebody.only_create, somebody.errors) == (b"application/json", True, [])


@pytest.mark.parametrize("key", [b"", b"k" * 129, "schlüssel".encode(), b"tab\there", b"\x7f"])
def test_a_bad_key_is_told_and_another_one_made(key):
    somebody = caller(idempotency_key=key)
    assert [path for path, _ in somebody.errors] == ["header.idempotency-key"]
    assert uuid.UUID(somebody.key).version == 7


def test_the_longest_key():
    assert caller(idempotency_key=b"~" * 128).key == "~" * 128


@pytest.mark.parametrize("name", ["x-actor", "x-correlation-id"])
@pytest.mark.parametrize("value", [b"", b"a" * 129, "ü".encode() * 129, b"\xff", b"\xed\xa0\x80"])
def test_a_bad_reference_is_told(name, value):
    assert [path for path, _ in Caller([(name.encode(), value)]).errors] == [f"header.{name}"]


def test_a_reference_is_counted_in_characters():
    assert caller(x_actor="ü".encode() * 128).actor == "ü" * 128


@pytest.mark.parametrize("name", [b"idempotency-key", b"x-actor", b"x-correlation-id", b"content-type"])
def test_what_is_said_twice_is_not_chosen_from(name):
    twice = Caller([(name, b"one"), (b"host", b"h"), (name, b"other")])
    assert twice.errors[0] == (f"header.{name.decode()}", "given more than once")
    assert twice.key not in {"one", "other"}


def test_the_trace_is_the_correlation_if_no_other_is_given():
    trace = b"00-%b-%b-01" % (TRACE, PARENT)
    assert caller(traceparent=trace).correlation_id == TRACE.decode()
    assert caller(traceparent=trace, x_correlation_id=b"mine").correlation_id == "mine"
    assert caller(traceparent=b"cc-%b-%b-01-what-comes-later" % (TRACE, PARENT)).correlation_id == TRACE.decode()


@pytest.mark.parametrize(
    "trace",
    [
        b"",
        b"nonsense",
        b"00-%b-%b" % (TRACE, PARENT),
        b"00-%b-%b-01-more" % (TRACE, PARENT),
        b"00-%b-%b-1" % (TRACE, PARENT),
        b"ff-%b-%b-01" % (TRACE, PARENT),
        b"00-%b-%b-01" % (b"0" * 32, PARENT),
        b"00-%b-%b-01" % (TRACE, b"0" * 16),
        b"00-%b-%b-01" % (TRACE.upper(), PARENT),
        b"00-%b-%b-01" % (TRACE[:-1], PARENT),
    ],
)
def test_a_malformed_trace_is_as_if_it_were_not_there(trace):
    somebody = caller(traceparent=trace)
    assert (somebody.correlation_id, somebody.errors) == (None, [])


def test_an_entity_tag_is_no_condition_that_we_know():
    assert not caller(if_none_match=b'"abc"').only_create


@given(
    st.lists(
        st.tuples(st.sampled_from([b"idempotency-key", b"x-actor", b"x-correlation-id", b"traceparent"]), st.binary())
    )
)
def test_whatever_is_sent_there_is_a_key_that_can_be_sent_back(headers):
    somebody = Caller(headers)
    assert 1 <= len(somebody.key) <= 128
    assert somebody.key.isascii()
    assert somebody.key.isprintable()
