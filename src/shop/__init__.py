"""The shop: a user service and an order service, standing on eventspine."""
