"""The order service: the orders of customers. Port 8002, topic `orders`."""
