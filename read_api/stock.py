"""One stock item: its level, from Redis or Postgres, and the policy in force."""

from collections.abc import Mapping
from typing import Final

import msgspec

from domain.errors import UnknownStockItem
from domain.policy import Policy
from infra.documents import encode
from read_api.current import Current
from read_api.levels import Item, LevelReader, open_document, value_in
from read_api.metrics import ReadMetrics

_POLICY: Final = "SELECT p.policy FROM {views}.policies p WHERE p.sku = %(sku)s AND p.warehouse = %(warehouse)s"
_decode_policy = msgspec.json.Decoder(Policy).decode


class StockReader:
    def __init__(self, levels: LevelReader, current: Current, metrics: ReadMetrics) -> None:
        self._levels = levels
        self._current = current
        self._metrics = metrics

    async def level(self, sku: str, warehouse: str, versions: Mapping[Item, int]) -> bytes:
        """The level's JSON. Raises UnknownStockItem, HttpProblem."""
        item = (sku, warehouse)
        found = await self._levels.read([sku], versions, [item])
        value = value_in(found, item)
        if value is None:
            raise UnknownStockItem(sku, warehouse)
        self._metrics.answered_by(found[sku].source, 1)
        return open_document(value) + b"}"

    async def policy(self, sku: str, warehouse: str) -> bytes:
        """Every threshold of the policy in force. Raises UnknownStockItem, HttpProblem ``unavailable``."""
        rows = await self._current.rows(_POLICY, {"sku": sku, "warehouse": warehouse})
        if not rows:
            raise UnknownStockItem(sku, warehouse)
        # What is stored leaves the defaults out; who asks for the policy in force wants all of it.
        return encode(msgspec.structs.asdict(_decode_policy(rows[0][0])))
