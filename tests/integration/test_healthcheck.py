"""The program that a container's health check runs, asking a real server."""

import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from infra.embedded.ports import free_server_port

ROOT = Path(__file__).parents[2]


class Answers(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        found = self.path == "/readyz?all=1"
        body = b'{"status":"ready"}' if found else b'{"detail":"kafka: away"}'
        self.send_response(200 if found else 503)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def address() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def check(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-S", "-m", "infra.healthcheck", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, cwd=ROOT)


def test_200_is_well_and_the_answer_is_shown(address: str) -> None:
    done = check(f"{address}/readyz?all=1")
    assert (done.returncode, done.stdout, done.stderr) == (0, '{"status":"ready"}\n', "")


def test_anything_else_is_not_and_the_reason_is_shown(address: str) -> None:
    done = check(f"{address}/readyz")
    assert (done.returncode, done.stdout, done.stderr) == (1, '{"detail":"kafka: away"}\n', "")


def test_nobody_at_home_is_not_well() -> None:
    done = check(f"http://127.0.0.1:{free_server_port()}/readyz")
    assert (done.returncode, done.stderr) == (1, "")
    assert "refused" in done.stdout


@pytest.mark.parametrize("argument", ["127.0.0.1:8000/readyz", "http://127.0.0.1:8000", "http://localhost/readyz", ""])
def test_what_is_no_url_is_told(argument: str) -> None:
    done = check(*([argument] if argument else []))
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.strip()
