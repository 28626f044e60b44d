"""The saga's way in: messages of orders, payments and warehouses become commands, in batches, once each."""
