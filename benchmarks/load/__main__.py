"""The load process: a plan on standard input, its result on standard output."""

import gc
import signal
import sys

import msgspec

from benchmarks.load.client import LoadClient
from benchmarks.load.plan import Plan


def main() -> None:
    client = LoadClient(msgspec.json.decode(sys.stdin.buffer.read(), type=Plan))
    # Nothing here makes cycles; a collection in the middle would be charged to the server as latency.
    gc.disable()
    signal.signal(signal.SIGTERM, lambda *_: client.finish())
    sys.stdout.buffer.write(msgspec.json.encode(client.run()))


if __name__ == "__main__":
    main()
