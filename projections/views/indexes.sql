-- The keys and indexes of a generation; one statement per line group, so that a rebuild can run them side by side.

ALTER TABLE stock_levels ADD CONSTRAINT stock_levels_pkey PRIMARY KEY (sku, warehouse);
-- The stock of a warehouse, page by page.
CREATE UNIQUE INDEX stock_levels_warehouse_idx ON stock_levels (warehouse, sku);
ALTER TABLE policies ADD CONSTRAINT policies_pkey PRIMARY KEY (sku, warehouse);
ALTER TABLE reservations ADD CONSTRAINT reservations_pkey PRIMARY KEY (reservation_id);
CREATE INDEX reservations_order_idx ON reservations (order_id);
ALTER TABLE holds ADD CONSTRAINT holds_pkey PRIMARY KEY (reservation_id, sku, warehouse);
-- Reservations of a SKU in the order of their ids, closed ones too.
CREATE INDEX holds_sku_idx ON holds (sku, reservation_id);
-- What is open at an item: its earliest end, what of it is due, and whose promises are at risk.
CREATE INDEX holds_open_idx ON holds (sku, warehouse, due_at) WHERE active > 0 OR committed > 0;
-- Active holds of all items in the order in which they end.
CREATE INDEX holds_due_idx ON holds (due_at) WHERE due_at IS NOT NULL;
ALTER TABLE movements ADD CONSTRAINT movements_pkey PRIMARY KEY (sku, warehouse, version);
CREATE INDEX movements_at_idx ON movements (at);
-- Also serves a reservation's movements: its order is known.
CREATE INDEX movements_order_idx ON movements (order_id) WHERE order_id IS NOT NULL;
CREATE INDEX movements_reference_idx ON movements (reference_type, reference_id) WHERE reference_id IS NOT NULL;
ALTER TABLE warehouses ADD CONSTRAINT warehouses_pkey PRIMARY KEY (code);
