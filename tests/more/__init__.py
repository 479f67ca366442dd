"""What a team of its own would bring: a service beside the shop's, found by `SHOP_SERVICES`."""
