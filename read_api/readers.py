"""Everything that answers a call, made once and handed to the routes."""

from dataclasses import dataclass

from read_api.as_of import Log, Replay
from read_api.availability import AvailabilityDesk
from read_api.metrics import ReadMetrics
from read_api.movements import MovementReader
from read_api.reservations import ReservationReader
from read_api.shortages import ShortageReader
from read_api.stock import StockReader
from read_api.warehouses import WarehouseReader
from read_api.watermarks import Watermarks


@dataclass(frozen=True, slots=True)
class Readers:
    desk: AvailabilityDesk
    log: Log
    metrics: ReadMetrics
    movements: MovementReader
    replay: Replay
    reservations: ReservationReader
    shortages: ShortageReader
    stock: StockReader
    warehouses: WarehouseReader
    watermarks: Watermarks
