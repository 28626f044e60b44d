"""HTTP as bytes: what is sent, and what is understood of an answer."""

import pytest

from benchmarks.load.wire import MalformedResponseError, get, parse_response, with_body

_ANSWER = b'HTTP/1.1 201 Created\r\ndate: today\r\ncontent-length: 5\r\nserver: x\r\n\r\n{"a":1}'


def test_a_whole_answer():
    response = parse_response(_ANSWER)
    assert response is not None
    assert response.status == 201
    assert _ANSWER[response.body_start : response.end] == b'{"a":'


def test_a_head_in_two_pieces_has_to_wait():
    head_end = _ANSWER.index(b"\r\n\r\n")
    assert parse_response(b"") is None
    assert parse_response(_ANSWER[: head_end + 3]) is None


def test_a_body_that_is_still_coming_is_known_by_its_end():
    whole = parse_response(_ANSWER)
    assert whole is not None
    beginning = parse_response(_ANSWER[: whole.body_start + 1])
    assert beginning == whole
    assert beginning.end > whole.body_start + 1


def test_the_length_may_be_the_last_header_and_written_in_capitals():
    response = parse_response(b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n")
    assert response is not None
    assert response.end - response.body_start == 12


def test_no_content_needs_no_length():
    response = parse_response(b"HTTP/1.1 204 No Content\r\n\r\n")
    assert response is not None
    assert response.end == response.body_start


@pytest.mark.parametrize(
    "answer",
    [b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", b"SSH-2.0-OpenSSH_9.6\r\n\r\n"],
    ids=["chunked", "not http"],
)
def test_what_it_cannot_read_is_an_error_not_a_success(answer):
    with pytest.raises(MalformedResponseError):
        parse_response(answer)


def test_a_request_says_how_long_its_body_is():
    request = with_body("POST", "/v1/reservations", b'{"a":1}', key=b"k-1")
    head, _, body = request.partition(b"\r\n\r\n")
    assert head.startswith(b"POST /v1/reservations HTTP/1.1\r\n")
    assert b"\r\nIdempotency-Key: k-1\r\n" in head
    assert b"\r\nContent-Length: 7" in head
    assert body == b'{"a":1}'


def test_a_get_has_neither_body_nor_key():
    assert get("/v1/availability/A") == b"GET /v1/availability/A HTTP/1.1\r\nHost: bench\r\n\r\n"
