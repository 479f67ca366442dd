"""The digest service: knows how many letters were delivered. It publishes nothing."""
