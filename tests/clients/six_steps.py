"""The six steps of the README and the lists, by generated clients. Takes the two services' addresses."""

import sys

from orders_client import Client as OrdersClient
from orders_client.api.orders import get_order, get_orders, place_order
from orders_client.models import NewOrder, Order, Orders
from orders_client.models import Problem as OrdersProblem
from orders_client.types import Unset
from users_client import Client as UsersClient
from users_client.api.users import create_user, get_user, get_users
from users_client.models import NewUser, Problem, User, Users
from users_client.types import Unset as Absent

users = UsersClient(base_url=sys.argv[1], raise_on_unexpected_status=True)
orders = OrdersClient(base_url=sys.argv[2], raise_on_unexpected_status=True)

new_user = NewUser(email="setiadi@example.com", name="Setiadi")
user = create_user.sync(client=users, body=new_user)
assert isinstance(user, User) and user.id == 1, user
assert get_user.sync(user.id, client=users) == user

new_order = NewOrder(product="coffee", quantity=100, total_price=50, user_id=user.id)
order = place_order.sync(client=orders, body=new_order)
assert isinstance(order, Order) and order.total_price == "50.00", order
assert order.customer is not None and order.customer.name == "Setiadi"
assert get_order.sync(order.id, client=orders) == order

taken = create_user.sync(client=users, body=NewUser(email="SETIADI@example.com", name="Setiadi"))
assert isinstance(taken, Problem), taken
assert taken.type_ == "urn:eventshop:problem:email-taken"
assert isinstance(taken.errors, Absent)

again = place_order.sync(client=orders, body=new_order)
assert isinstance(again, Order) and again.id == 2, again

found = get_users.sync(client=users, email="Setiadi@Example.com")
assert isinstance(found, Users) and found.items == [user], found
of_coffee = get_orders.sync(client=orders, product="coffee", placed_from=order.placed_at)
assert isinstance(of_coffee, Orders) and of_coffee.items == [again, order], of_coffee
nothing = get_orders.sync(client=orders, placed_before=order.placed_at)
assert isinstance(nothing, Orders) and nothing.items == [], nothing
wrong = get_orders.sync(client=orders, limit=0)
assert isinstance(wrong, OrdersProblem) and not isinstance(wrong.errors, Unset), wrong
assert [error.field for error in wrong.errors] == ["limit"]
print("six steps")
