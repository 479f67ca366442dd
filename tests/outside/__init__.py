"""Services of the tests' own, for what no service of the shop does yet: one asks a provider outside
about its events, and one only reads.
"""
