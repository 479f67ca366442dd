"""The log as a table keeps the contract of every log."""

from collections.abc import AsyncIterator

import pytest

from eventspine.log import EventLog
from eventspine.postgres_log import PostgresLog
from tests.eventspine.log_contract import EventLogContract
from tests.eventspine.subscription_contract import SubscriptionContract


class TestPostgresLog(EventLogContract, SubscriptionContract):
    @pytest.fixture
    async def log(self, postgres_log_url: str) -> AsyncIterator[EventLog]:
        log = PostgresLog(postgres_log_url)
        await log.create_tables()
        yield log
        await log.close()
