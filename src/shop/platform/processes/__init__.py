"""The two kinds of process of a service, the API and the worker, and their health checks."""
