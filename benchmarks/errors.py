"""Why a benchmark run ends without figures."""


class BenchFailedError(Exception):
    """Something that the bench needs did not work: its message says what."""


class UnknownCaseError(BenchFailedError):
    """A case was asked for that there is not."""


class StackUnreachableError(BenchFailedError):
    """The stack did not start, or does not answer."""


class LoadFailedError(BenchFailedError):
    """The load process gave up; its last words are the message."""


class PgbenchError(BenchFailedError):
    """pgbench is not there, or failed; its last words are the message."""
