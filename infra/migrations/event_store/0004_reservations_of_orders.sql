-- For what was decided on memory alone about an order: fails unless, under the append lock, every order still has as many
-- reservations as memory knew (they are never removed, so as many are the same), SQLSTATE SH410.
CREATE FUNCTION assert_orders(orders text[], known bigint[]) RETURNS void LANGUAGE plpgsql STABLE AS $$
BEGIN
    IF EXISTS (
        SELECT FROM unnest(orders, known) AS k (id, reservations)
        CROSS JOIN LATERAL (
            SELECT count(*) AS found FROM (
                SELECT FROM reservations r WHERE r.order_id = k.id LIMIT k.reservations + 1
            ) AS one_more_at_most
        ) AS n
        WHERE n.found <> k.reservations
    ) THEN
        RAISE EXCEPTION 'an order has other reservations' USING ERRCODE = 'SH410';
    END IF;
END $$;
