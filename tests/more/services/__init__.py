"""One service. It is in no wheel, and the shop knows nothing of it."""
