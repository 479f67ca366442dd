"""The shop's services. They never import each other. They share only `shop.contracts`.

A new service needs a folder here and a contracts file. `shop.platform.discovery` finds it.
"""
