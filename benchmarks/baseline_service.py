"""An order service in the usual design, for comparison with the shop's own.

It has an ordinary FastAPI route, and one session and one transaction for each request: look up the customer, insert
the order, insert the event into an outbox with a serial number, commit, and answer through a response model. The
database server, the durability and the answer are the same as in the shop.

`BASELINE=sqlalchemy` uses SQLAlchemy's ORM with a synchronous session in FastAPI's thread pool, the most common design
(an asynchronous session was no faster in a test). `BASELINE=psycopg` is the fastest ordinary design. `BASELINE=kafka`
has no outbox, and sends with aiokafka after the commit. Run it with
`uvicorn --factory benchmarks.baseline_service:app`.
"""

import json
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any

from fastapi import Depends, FastAPI, HTTPException, Response
from fastapi.concurrency import run_in_threadpool
from psycopg.types.json import Jsonb
from psycopg_pool import AsyncConnectionPool
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import BigInteger, Numeric, create_engine, func
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    Session,
    mapped_column,
    sessionmaker,
)

POOL = 20


class Base(DeclarativeBase):
    pass


class Customer(Base):
    __tablename__ = "customers"

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    name: Mapped[str]
    email: Mapped[str]


class Order(Base):
    __tablename__ = "orders"

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    # No foreign key, like the shop's own table. Its check would only slow the baselines.
    user_id: Mapped[int] = mapped_column(BigInteger, index=True)
    product: Mapped[str]
    quantity: Mapped[int]
    total_price: Mapped[Decimal] = mapped_column(Numeric(12, 2))
    status: Mapped[str]
    version: Mapped[int]
    placed_at: Mapped[datetime] = mapped_column(server_default=func.now())

    # The insert returns these values in the same statement.
    __mapper_args__ = {"eager_defaults": True}  # noqa: RUF012 - SQLAlchemy's way


class Outbox(Base):
    __tablename__ = "outbox"

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    topic: Mapped[str]
    key: Mapped[str]
    type: Mapped[str]
    data: Mapped[dict[str, Any]] = mapped_column(JSONB)
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class NewOrder(BaseModel):
    model_config = ConfigDict(extra="forbid")

    user_id: Annotated[int, Field(ge=1)]
    product: Annotated[str, Field(min_length=1, max_length=200)]
    quantity: Annotated[int, Field(ge=1)]
    total_price: Annotated[Decimal, Field(ge=0, max_digits=12, decimal_places=2)]


class CustomerView(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    name: str
    email: str


class OrderView(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: int
    user_id: int
    product: str
    quantity: int
    total_price: Decimal
    status: str
    version: int
    placed_at: datetime
    customer: CustomerView


def _order(new: NewOrder) -> Order:
    return Order(**new.model_dump(), status="placed", version=1)


def _event(order: Order) -> Outbox:
    return Outbox(
        topic="orders", key=str(order.id), type="order.placed",
        data={
            "id": order.id, "version": order.version, "user_id": order.user_id,
            "product": order.product, "quantity": order.quantity,
            "total_price": str(order.total_price), "status": order.status,
            "placed_at": order.placed_at.isoformat(),
        },
    )  # fmt: skip


def _view(order: Order, customer: Customer) -> OrderView:
    return OrderView(
        id=order.id, user_id=order.user_id, product=order.product, quantity=order.quantity,
        total_price=order.total_price, status=order.status, version=order.version,
        placed_at=order.placed_at, customer=CustomerView.model_validate(customer),
    )  # fmt: skip


def _unknown() -> HTTPException:
    return HTTPException(404, "There is no such customer")


def sqlalchemy_app(url: str) -> FastAPI:
    """Synchronous sessions, in the thread pool in which FastAPI runs `def` endpoints."""
    engine = create_engine(_sqlalchemy(url), pool_size=POOL, max_overflow=POOL)
    sessions = sessionmaker(engine, expire_on_commit=False)
    app = FastAPI()

    def session() -> Iterator[Session]:
        with sessions() as opened:
            yield opened

    @app.post("/orders", status_code=201, response_model=OrderView)
    def place_order(
        new: NewOrder, response: Response, db: Annotated[Session, Depends(session)]
    ) -> OrderView:
        customer = db.get(Customer, new.user_id)
        if customer is None:
            raise _unknown()
        order = _order(new)
        db.add(order)
        db.flush()
        db.add(_event(order))
        db.commit()
        response.headers["Location"] = f"/orders/{order.id}"
        return _view(order, customer)

    return app


_INSERT_ORDER = """
INSERT INTO orders (user_id, product, quantity, total_price, status, version)
VALUES (%s, %s, %s, %s, 'placed', 1) RETURNING id, placed_at
"""
_INSERT_EVENT = "INSERT INTO outbox (topic, key, type, data) VALUES (%s, %s, %s, %s)"


def psycopg_app(url: str) -> FastAPI:
    """The same three statements without SQLAlchemy: the fastest ordinary design."""
    pool = AsyncConnectionPool(url, min_size=POOL, max_size=POOL, open=False)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with pool:
            yield

    app = FastAPI(lifespan=lifespan)

    @app.post("/orders", status_code=201, response_model=OrderView)
    async def place_order(new: NewOrder, response: Response) -> OrderView:
        async with pool.connection() as db:  # commits when the block ends
            cursor = await db.execute(
                "SELECT name, email FROM customers WHERE id = %s", (new.user_id,)
            )
            customer = await cursor.fetchone()
            if customer is None:
                raise _unknown()
            cursor = await db.execute(
                _INSERT_ORDER, (new.user_id, new.product, new.quantity, new.total_price)
            )
            row = await cursor.fetchone()
            assert row is not None
            order = OrderView(
                id=row[0], **new.model_dump(), status="placed", version=1, placed_at=row[1],
                customer=CustomerView(name=customer[0], email=customer[1]),
            )  # fmt: skip
            data = order.model_dump(mode="json", exclude={"customer"})
            await db.execute(_INSERT_EVENT, ("orders", str(order.id), "order.placed", Jsonb(data)))
        response.headers["Location"] = f"/orders/{order.id}"
        return order

    return app


def kafka_app(url: str) -> FastAPI:
    """Without an outbox: the event is sent after the commit. It is lost if the process dies in between."""
    from aiokafka import AIOKafkaProducer  # noqa: PLC0415 - only this needs it

    engine = create_engine(_sqlalchemy(url), pool_size=POOL, max_overflow=POOL)
    sessions = sessionmaker(engine, expire_on_commit=False)
    producers: list[Any] = []

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        producer = AIOKafkaProducer(
            bootstrap_servers=os.environ["KAFKA"], acks="all", enable_idempotence=True
        )
        await producer.start()
        producers.append(producer)
        yield
        await producer.stop()

    app = FastAPI(lifespan=lifespan)

    def save(new: NewOrder) -> tuple[Order, Customer]:
        with sessions() as db:
            customer = db.get(Customer, new.user_id)
            if customer is None:
                raise _unknown()
            order = _order(new)
            db.add(order)
            db.commit()
            return order, customer

    @app.post("/orders", status_code=201, response_model=OrderView)
    async def place_order(new: NewOrder, response: Response) -> OrderView:
        order, customer = await run_in_threadpool(save, new)
        event = _event(order)
        await producers[0].send_and_wait(
            "by-hand", json.dumps(event.data).encode(), key=event.key.encode(),
            headers=[("type", event.type.encode())],
        )  # fmt: skip
        response.headers["Location"] = f"/orders/{order.id}"
        return _view(order, customer)

    return app


def create_tables(url: str, customers: int) -> None:
    engine = create_engine(_sqlalchemy(url))
    Base.metadata.create_all(engine)
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO customers (id, name, email) "
            "SELECT n, 'Customer ' || n, 'customer' || n || '@example.com' "
            f"FROM generate_series(1, {customers}) n"
        )
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("VACUUM ANALYZE customers")
    engine.dispose()


def _sqlalchemy(url: str) -> str:
    return url.replace("postgresql://", "postgresql+psycopg://", 1)


APPS = {"sqlalchemy": sqlalchemy_app, "psycopg": psycopg_app, "kafka": kafka_app}


def app() -> FastAPI:
    """For uvicorn's `--factory`."""
    return APPS[os.environ.get("BASELINE", "sqlalchemy")](os.environ["DATABASE_URL"])
