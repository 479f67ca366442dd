"""Issues tokens, and keeps what that needs: passwords, sessions, signing keys, clients and roles."""
