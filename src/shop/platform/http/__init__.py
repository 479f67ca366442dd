"""HTTP: problems, the fast route, and the app that services are made of."""
