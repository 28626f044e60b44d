"""`python -m benchmarks` is `stockhold bench`."""

from benchmarks.command import main

main()
