"""What every service is made with. It names no service."""
