"""The command itself lives with what it runs; the command line only offers it."""

from benchmarks.command import bench

__all__ = ["bench"]
