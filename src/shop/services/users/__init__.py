"""The user service: who the customers are. Port 8001, topic `users`."""
