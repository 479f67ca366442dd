"""The greeting service: greets users, whom it knows from their events."""
