"""The command line, with one file for each command. `common.py` has what they share."""
