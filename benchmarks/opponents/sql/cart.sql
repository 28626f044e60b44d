\set a random(1, :products)
\set b random(1, :products)
\set c random(1, :products)
\set warehouse random(1, 5)
\set key random(1, 9223372036854775807)
-- Rows are locked in key order: two carts with the same products cannot wait for each other.
\set first least(:a, :b, :c)
\set third greatest(:a, :b, :c)
\set second :a + :b + :c - :first - :third
BEGIN;
UPDATE levels SET available = available - 1, reserved = reserved + 1 WHERE product = :first AND warehouse = :warehouse AND available >= 1;
UPDATE levels SET available = available - 1, reserved = reserved + 1 WHERE product = :second AND warehouse = :warehouse AND available >= 1;
UPDATE levels SET available = available - 1, reserved = reserved + 1 WHERE product = :third AND warehouse = :warehouse AND available >= 1;
INSERT INTO reservations (idempotency_key, status, expires_at) VALUES (:key::text, 'ACTIVE', now() + interval '15 minutes');
INSERT INTO movements (product, warehouse, quantity, type, reserved_by) VALUES (:first, :warehouse, 1, 'RESERVATION', :key::text), (:second, :warehouse, 1, 'RESERVATION', :key::text), (:third, :warehouse, 1, 'RESERVATION', :key::text);
COMMIT;
