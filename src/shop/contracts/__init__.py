"""The events services publish, each defined once, by the service that publishes it.

A service may import another's contracts, and nothing else of it.
"""
