"""`python -S -m infra.healthcheck http://127.0.0.1:8000/readyz`: exit code 0 if that answers 200, for a container's health check.

Run every few seconds beside the process that it asks about, so it loads next to nothing. What was answered goes to
standard output, where whoever inspects the container finds it.
"""

import socket
import sys

TIMEOUT_S = 4.0
SCHEME = "http://"
OK = b"200"


def answer_of(url: str, timeout_s: float = TIMEOUT_S) -> tuple[bytes, bytes]:
    """(status, body). Raises OSError if nobody answers, ValueError if that is no URL or no answer of HTTP."""
    address, slash, path = url.removeprefix(SCHEME).partition("/")
    host, _, port = address.rpartition(":")
    if not url.startswith(SCHEME) or not slash or not host:
        raise ValueError(f"{url!r} is not like {SCHEME}127.0.0.1:8000/readyz")
    with socket.create_connection((host, int(port)), timeout_s) as connection:
        connection.sendall(f"GET /{path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n".encode())
        with connection.makefile("rb") as received:
            head, _, body = received.read().partition(b"\r\n\r\n")
    version, _, rest = head.partition(b" ")
    if not version.startswith(b"HTTP/"):
        raise ValueError("this is no answer of HTTP")
    return rest[:3], body


def main() -> int:
    """The exit code."""
    try:
        status, body = answer_of(sys.argv[1])
    except (OSError, ValueError, IndexError) as error:
        print(error)  # noqa: T201  (it is what this program is for)
        return 1
    print(body.decode(errors="replace"))  # noqa: T201  (as above)
    return 0 if status == OK else 1


if __name__ == "__main__":
    sys.exit(main())
