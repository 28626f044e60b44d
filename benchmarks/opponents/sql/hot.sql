\set product 1
\set warehouse 1
\set key random(1, 9223372036854775807)
BEGIN;
UPDATE levels SET available = available - 1, reserved = reserved + 1 WHERE product = :product AND warehouse = :warehouse AND available >= 1;
INSERT INTO reservations (idempotency_key, status, expires_at) VALUES (:key::text, 'ACTIVE', now() + interval '15 minutes');
INSERT INTO movements (product, warehouse, quantity, type, reserved_by) VALUES (:product, :warehouse, 1, 'RESERVATION', :key::text);
COMMIT;
