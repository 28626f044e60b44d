"""Answers every request with the same bytes: the floor under the load generator's own cost.

Started as `python -m benchmarks.opponents.constant_server`; prints its port, serves until its input is closed.
"""

import select
import socket
import sys

_ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"


def main() -> None:
    listener = socket.create_server(("127.0.0.1", 0), backlog=256)
    print(listener.getsockname()[1], flush=True)
    epoll, connections = select.epoll(), dict[int, socket.socket]()
    epoll.register(listener.fileno(), select.EPOLLIN)
    epoll.register(sys.stdin.fileno(), select.EPOLLIN)
    while True:
        for fd, _ in epoll.poll():
            if fd == sys.stdin.fileno():
                return
            if fd == listener.fileno():
                connection, _ = listener.accept()
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connections[connection.fileno()] = connection
                epoll.register(connection.fileno(), select.EPOLLIN)
            elif connections[fd].recv(65_536):
                connections[fd].sendall(_ANSWER)
            else:
                connections.pop(fd).close()


if __name__ == "__main__":
    main()
