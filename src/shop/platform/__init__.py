"""The platform that all services use. It names no service."""
