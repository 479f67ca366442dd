"""`python -m benchmarks.open_snapshot`: how a long snapshot, like the audit's, slows publishing.

Every transaction that publishes updates the one row of `outbox_head`. While a snapshot is open, PostgreSQL keeps all
later versions of the row, and each update must skip more of them.
"""

import tempfile
import time
from pathlib import Path

import psycopg

from devstack.postgres import LocalPostgres
from eventspine.migrations import PUBLISH_EVENTS, steps

EVENT = (
    '[{"t": "orders", "k": "1", "y": "order.placed", "s": 1, "v": 1, "d": {"id": 1}, "h": null}]'
)


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="eventshop-bench-") as directory:
        Path(directory).chmod(0o711)
        # Without fsync, to measure the statement and not the disk.
        with LocalPostgres(Path(directory) / "postgres", settings={"fsync": "off"}) as server:
            url = server.dsn("postgres", "postgres")
            with psycopg.connect(url, autocommit=True) as one, psycopg.connect(url) as other:
                one.execute(steps()[0].encode())
                one.execute(PUBLISH_EVENTS.encode())
                publish(one, 500)
                print(f"no snapshot: {publish(one, 3000):.2f} ms")
                other.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
                other.execute("SELECT FROM outbox_head")
                for commits in range(3000, 33_000, 3000):
                    print(f"open for {commits} commits: {publish(one, 3000):.2f} ms")
                other.rollback()
                publish(one, 500)
                print(f"closed: {publish(one, 3000):.2f} ms")


def publish(connection: psycopg.Connection, times: int) -> float:
    """The mean milliseconds of a transaction, over `times` transactions."""
    began = time.perf_counter()
    for _ in range(times):
        connection.execute("SELECT publish_events(1, %s)", (EVENT,))
    return (time.perf_counter() - began) / times * 1000


if __name__ == "__main__":
    main()
