import pytest, schemathesis
from hypothesis import settings, HealthCheck, seed
from schemathesis.config import SchemathesisConfig
import datetime
from shop.contracts.users import UserCreated
from shop.kit.api_process import make_app
from shop import services
from shop.kit.settings import *

def _schema(name):
    app = make_app(services.load(name), Settings.model_validate({name: ServiceSettings(database_url="postgresql:///none")}))
    return schemathesis.openapi.from_dict(app.openapi())

@pytest.fixture(scope="module")
def users_(users):
    for i in range(3):
        users.client.post("/users", json={"email": f"u{i}@example.com", "name": "x"}).raise_for_status()
    return users

@pytest.fixture(scope="module")
def orders_(orders):
    orders.hears(*[UserCreated(id=i,version=1,email=f"a{i}@b",name="x",created_at=datetime.datetime.now(datetime.UTC)) for i in range(1,4)])
    for i in range(1,4): orders.client.post("/orders", json={"user_id":i,"product":"c","quantity":1,"total_price":1}).raise_for_status()
    return orders

us = _schema("users")
os_ = _schema("orders")
S = settings(max_examples=30, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))

@us.parametrize()
@S
def test_users_doc(case, users_):
    try: case.call_and_validate(base_url=str(users_.client.base_url))
    except BaseException: print("META", case.headers, case.meta); raise
@os_.parametrize()
@S
def test_orders_doc(case, orders_): case.call_and_validate(base_url=str(orders_.client.base_url))
