import socket

import pytest

from infra.embedded.errors import PortTakenError, StackError
from infra.embedded.ports import is_loopback, listen


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_loopback_is_told_from_the_rest(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "2001:db8::1", ""])
def test_everything_else_can_be_reached_by_others(host: str) -> None:
    assert not is_loopback(host)


def has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


@pytest.mark.parametrize(
    "host", ["127.0.0.1", pytest.param("::1", marks=pytest.mark.skipif(not has_ipv6(), reason="no IPv6 here"))]
)
def test_a_free_port_is_found_and_connections_are_taken(host: str) -> None:
    with listen(host, 0) as listener, socket.create_connection(listener.getsockname()[:2], 5):
        connection, _ = listener.accept()
        connection.close()


def test_a_taken_port_is_named() -> None:
    with listen("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(PortTakenError, match=f"port {port} on 127"):
            listen("127.0.0.1", port)


def test_an_address_that_is_not_ours_is_refused() -> None:
    with pytest.raises(StackError, match=r"cannot listen on 192\.0\.2\.1"):
        listen("192.0.2.1", 8000)
