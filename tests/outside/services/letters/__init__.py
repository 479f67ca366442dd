"""The letter service: every letter is given to a postal provider."""
