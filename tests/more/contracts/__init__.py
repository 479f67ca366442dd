"""Its events."""
