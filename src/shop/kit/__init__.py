"""What every service of the shop is made with; it knows none of them."""
