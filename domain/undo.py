"""What it takes to go back to before an event."""

from datetime import datetime

import msgspec

from domain.figures import Figures
from domain.hold import Hold


class Undo(msgspec.Struct, frozen=True, gc=False):
    """What one event changed, in O(1): a failed append must leave nothing in memory."""

    version: int
    created_on: datetime
    modified_on: datetime
    figures: Figures
    reservation_id: str | None
    hold: Hold | None
    rank: int | None
