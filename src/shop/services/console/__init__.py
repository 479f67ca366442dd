"""The console: pages that show and steer the flow of the other services. Port 8000. No database, no topic."""
