"""The policy of a stock item and the one rule that turns a level into a status for buyers."""

from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, UnsetType

from domain.values import Count, Quantity, StockStatus, TtlSeconds

OnShortage = Annotated[str, Meta(pattern=r"^(keep|release_newest_unpaid)$(?!\n)")]


class Policy(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, forbid_unknown_fields=True):
    """Thresholds of one stock item. Quantities in units, the TTL in seconds."""

    safety_stock: Count = 0
    low_stock_threshold: Count = 10
    reorder_point: Count = 20
    reorder_quantity: Count = 100
    max_stock_level: Count | None = None
    backorder_limit: Count = 0
    hold_ttl_s: TtlSeconds = 900
    on_shortage: OnShortage = "keep"
    reorder_enabled: bool = False
    alerts_enabled: bool = True
    critical: bool = False


class PolicyPatch(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, forbid_unknown_fields=True):
    """Some thresholds of a policy; what is not named stays as it is."""

    safety_stock: Count | UnsetType = UNSET
    low_stock_threshold: Count | UnsetType = UNSET
    reorder_point: Count | UnsetType = UNSET
    reorder_quantity: Quantity | UnsetType = UNSET
    max_stock_level: Count | UnsetType | None = UNSET
    backorder_limit: Count | UnsetType = UNSET
    hold_ttl_s: TtlSeconds | UnsetType = UNSET
    on_shortage: OnShortage | UnsetType = UNSET
    reorder_enabled: bool | UnsetType = UNSET
    alerts_enabled: bool | UnsetType = UNSET
    critical: bool | UnsetType = UNSET

    def onto(self, policy: Policy) -> Policy:
        """``policy`` with the thresholds named here."""
        named = {name: value for name, value in msgspec.structs.asdict(self).items() if value is not UNSET}
        return msgspec.structs.replace(policy, **named)


DEFAULT_POLICY = Policy()


def stock_status(available: int, threshold: int, backorder_limit: int, *, discontinued: bool = False) -> StockStatus:
    """The status shown to buyers. ``available`` is unfloored: below zero it eats into the backorder limit."""
    if discontinued:
        return StockStatus.DISCONTINUED
    if available > threshold:
        return StockStatus.IN_STOCK
    if available > 0:
        return StockStatus.LOW_STOCK
    return StockStatus.BACKORDER if available + backorder_limit > 0 else StockStatus.OUT_OF_STOCK
