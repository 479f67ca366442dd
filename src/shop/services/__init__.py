"""The shop's services. They never import each other; they meet only in `shop.contracts`.

A new service is a folder beside these and a contracts file: `shop.platform.discovery` finds it.
"""
