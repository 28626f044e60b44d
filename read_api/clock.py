"""What time it is for a read: the database's, since that is what decisions go by."""

import time
from datetime import datetime

from projections.redis_layout import from_microseconds


class ReadClock:
    """The machine's clock, corrected by what the database's was seen to differ *for certain*.

    Where both run on one machine, or are kept in step by NTP, the correction is zero: a difference that the
    round trip may explain is not one.
    """

    def __init__(self) -> None:
        self._offset_us = 0

    def now_us(self) -> int:
        """Microseconds since 1970."""
        return time.time_ns() // 1_000 + self._offset_us

    def now(self) -> datetime:
        return from_microseconds(self.now_us())

    @staticmethod
    def machine_us() -> int:
        """The machine's own clock: what :meth:`observe` wants to know of before and after."""
        return time.time_ns() // 1_000

    def observe(self, before_us: int, database_us: int, after_us: int) -> None:
        """The database said ``database_us`` at some moment between the machine's ``before_us`` and ``after_us``."""
        if database_us < before_us:
            self._offset_us = database_us - before_us
        elif database_us > after_us:
            self._offset_us = database_us - after_us
        else:
            self._offset_us = 0
