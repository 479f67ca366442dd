"""The two kinds of process of a service, and how each says that it is well."""
