"""The order service: what customers ordered. Port 8002, topic `orders`."""
