"""Who asks, and what they may do: tokens are verified here, and rules are kept."""
