\set customer random(1, :customers)
BEGIN;
SELECT name, email FROM customers WHERE id = :customer;
INSERT INTO orders (user_id, product, quantity, total_price, status, version) VALUES (:customer, 'coffee', 3, 42.50, 'placed', 1) RETURNING id, placed_at;
INSERT INTO outbox (topic, key, type, data) VALUES ('orders', currval('orders_id_seq')::text, 'order.placed', '{"id": 1, "version": 1, "user_id": 1, "product": "coffee", "quantity": 3, "total_price": "42.50", "status": "placed", "placed_at": "2025-01-01T00:00:00.000000Z"}');
COMMIT;
