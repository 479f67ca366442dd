"""The log as a table keeps the contract of every log."""

import pytest

from eventspine.log import EventLog
from eventspine.postgres_log import PostgresLog
from tests.eventspine.log_contract import EventLogContract
from tests.support.records import OpenLog


class TestPostgresLog(EventLogContract):
    @pytest.fixture
    def open_log(self, postgres_log_url: str) -> OpenLog:
        async def open_log() -> EventLog:
            log = PostgresLog(postgres_log_url)
            await log.create_tables()
            return log

        return open_log
