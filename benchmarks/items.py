"""The names of the stock items that every case works on: item n is product n // 5 in warehouse n % 5."""

import msgspec

WAREHOUSES = 5


class Items(msgspec.Struct, frozen=True):
    """Items `first` … `first + count - 1` of a family; all names of a family have the same length."""

    family: str
    first: int
    count: int

    def sku(self, number: int) -> str:
        return f"{self.family}-{(self.first + number) // WAREHOUSES:06d}"

    def warehouse(self, number: int) -> str:
        return warehouse_code((self.first + number) % WAREHOUSES)

    def names(self) -> list[tuple[str, str]]:
        """(sku, warehouse) of each item, in order."""
        return [(self.sku(number), self.warehouse(number)) for number in range(self.count)]

    def skus(self) -> list[str]:
        return list(dict.fromkeys(sku for sku, _ in self.names()))


def warehouse_code(number: int) -> str:
    return f"BENCH-{number}"
