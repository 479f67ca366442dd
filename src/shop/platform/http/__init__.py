"""HTTP: the fast route, the app of a service, and their parts."""
