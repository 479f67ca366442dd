"""The events of the services. The publishing service defines each event once.

A service may import another service's contracts, and nothing else of it.
"""
