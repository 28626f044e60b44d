"""Ports for the embedded servers and sockets for the doors."""

import ipaddress
import random
import socket

from infra.embedded.errors import PortTakenError, StackError

LOOPBACK = "127.0.0.1"
# Below the range that systems hand out to outgoing connections, so that none of them takes the port of a server that is
# away for a moment: its address is already in the settings of every other process.
SERVER_PORTS = range(20_000, 32_000)
ATTEMPTS = 200
BACKLOG = 2048


def free_server_port() -> int:
    """A loopback port that nobody listens on now."""
    return free_server_ports(1)[0]


def free_server_ports(count: int) -> list[int]:
    """As many of them, all different."""
    found: list[int] = []
    for port in random.sample(SERVER_PORTS, ATTEMPTS):
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((LOOPBACK, port))
            except OSError:
                continue
        found.append(port)
        if len(found) == count:
            return found
    raise StackError(f"no free port for a server between {SERVER_PORTS[0]} and {SERVER_PORTS[-1]}")


def listen(host: str, port: int) -> socket.socket:
    """A listening socket, which the supervisor keeps: the port outlives a child, and several children may share it.

    Raises PortTakenError, or StackError if the host is not this machine's.
    """
    family, kind, protocol, _, address = _resolve(host, port)
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        if error.errno is not None and port != 0 and _is_taken(error):
            raise PortTakenError(host, port) from error
        raise StackError(f"cannot listen on {host}:{port}: {error.strerror}") from error
    return listener


def _resolve(
    host: str, port: int
) -> tuple[
    socket.AddressFamily, socket.SocketKind, int, str, tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]
]:
    try:
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except socket.gaierror as error:
        raise StackError(f"cannot listen on {host}: {error.strerror}") from error


def _is_taken(error: OSError) -> bool:
    import errno

    return error.errno in {errno.EADDRINUSE, errno.EACCES}


def is_loopback(host: str) -> bool:
    """Whether every address of `host` is reachable from this machine alone."""
    try:
        addresses = {str(found[4][0]) for found in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
    except socket.gaierror:
        return False
    return all(ipaddress.ip_address(address.partition("%")[0]).is_loopback for address in addresses)
