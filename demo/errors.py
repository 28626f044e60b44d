"""What ends a demo early."""

CHECK_FAILED = 1
NOT_REACHABLE = 3


class DemoError(Exception):
    """`exit_code` as in the CLI's contract: 1 a check failed, 3 something it needs is not reachable."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code
