"""The issuing side of identity: passwords, sessions, tokens, keys, clients and roles."""
