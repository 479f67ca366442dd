"""The command line; one file a command. `common.py` is what they share."""
