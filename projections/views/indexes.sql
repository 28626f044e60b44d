-- The indexes of a generation, then the keys that some of them are. A rebuild builds the indexes side by side, those
-- of one table too, and begins with what takes longest: hence the order.

CREATE UNIQUE INDEX holds_pkey ON holds (reservation_id, sku, warehouse);
CREATE UNIQUE INDEX movements_pkey ON movements (sku, warehouse, version);
CREATE UNIQUE INDEX reservations_pkey ON reservations (reservation_id);
-- Reservations of a SKU in the order of their ids, closed ones too.
CREATE INDEX holds_sku_idx ON holds (sku, reservation_id);
-- Also serves a reservation's movements: its order is known.
CREATE INDEX movements_order_idx ON movements (order_id) WHERE order_id IS NOT NULL;
-- What is open at an item: its earliest end, what of it is due, and whose promises are at risk.
CREATE INDEX holds_open_idx ON holds (sku, warehouse, due_at) WHERE active > 0 OR committed > 0;
CREATE INDEX reservations_order_idx ON reservations (order_id);
CREATE INDEX movements_at_idx ON movements (at);
-- Active holds of all items in the order in which they end.
CREATE INDEX holds_due_idx ON holds (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX movements_reference_idx ON movements (reference_type, reference_id) WHERE reference_id IS NOT NULL;
CREATE UNIQUE INDEX stock_levels_pkey ON stock_levels (sku, warehouse);
-- The stock of a warehouse, page by page.
CREATE UNIQUE INDEX stock_levels_warehouse_idx ON stock_levels (warehouse, sku);
CREATE UNIQUE INDEX policies_pkey ON policies (sku, warehouse);
CREATE UNIQUE INDEX warehouses_pkey ON warehouses (code);

ALTER TABLE holds ADD PRIMARY KEY USING INDEX holds_pkey;
ALTER TABLE movements ADD PRIMARY KEY USING INDEX movements_pkey;
ALTER TABLE reservations ADD PRIMARY KEY USING INDEX reservations_pkey;
ALTER TABLE stock_levels ADD PRIMARY KEY USING INDEX stock_levels_pkey;
ALTER TABLE policies ADD PRIMARY KEY USING INDEX policies_pkey;
ALTER TABLE warehouses ADD PRIMARY KEY USING INDEX warehouses_pkey;
