"""What a storm does to change data capture: to Debezium, its slots, its offsets, and to who relays.

Slots and offsets that are gone are repaired by `shop cdc begin`, as an operator would; all else has to go on by
itself.
"""

import time
from contextlib import suppress
from typing import TYPE_CHECKING

import psycopg

from eventspine.slots import slot_of
from tests.storm.stage import RELAY, SLOT_LIMIT, WORKERS, Stage
from tests.support.waiting import until

if TYPE_CHECKING:
    from tests.storm.faults import Scene

_WITHIN = 120.0  # seconds; another fault may strike at the same time
_SEGMENT = 16  # megabytes


def kill_connect(scene: "Scene") -> None:
    scene.stage.kill("connect")


def freeze_connect(scene: "Scene", hold: float) -> None:
    scene.stage.freeze("connect")
    try:
        time.sleep(hold)
    finally:
        scene.stage.thaw("connect")


def drop_slot(scene: "Scene", service: str) -> None:
    """While Debezium reads it. It finds none, or makes one, which leaves a hole; then it is repaired."""
    with scene.stage.capturing:
        _drop(scene.stage, service)
        _repair(scene, service)


def drop_offsets(scene: "Scene") -> None:
    """The slots know how far it has read."""
    with scene.stage.capturing:
        scene.stage.kill("connect")
        scene.stage.connect.offsets.unlink(missing_ok=True)


def drop_both(scene: "Scene", service: str) -> None:
    with scene.stage.capturing:
        scene.stage.kill("connect")
        _drop(scene.stage, service)
        scene.stage.connect.offsets.unlink(missing_ok=True)
        _repair(scene, service)


def exceed_limit(scene: "Scene", service: str) -> None:
    """Nobody reads the slot, and the write-ahead log grows beyond what may be kept for it."""
    stage = scene.stage
    with stage.capturing:
        stage.freeze("connect")
        try:
            for _ in range(SLOT_LIMIT // _SEGMENT + 3):
                stage.rows(
                    service,
                    "SELECT pg_logical_emit_message(true, 'fills', 'x'), pg_switch_wal()",
                )
                # Or the small disk would be full before a checkpoint looks at the limit.
                stage.rows(service, "CHECKPOINT")
        finally:
            stage.thaw("connect")
        lost = "SELECT FROM pg_replication_slots WHERE slot_name = %s AND wal_status = 'lost'"
        if not stage.rows(service, lost, slot_of(service)):
            scene.notes.append("the slot was not lost")
        _repair(scene, service)


def turn(scene: "Scene", hold: float) -> None:
    """To polling, and back."""
    stage = scene.stage
    with stage.capturing:
        _until_done(stage, "cdc", "end")
        _relay_by(stage, "polling")
        time.sleep(hold)
        _until_done(stage, "cdc", "begin")
        _relay_by(stage, "cdc")


def only_polling(stage: Stage) -> str | None:
    return "Debezium relays" if stage.options.log == "cdc" else None


def only_cdc(stage: Stage) -> str | None:
    return None if stage.options.log == "cdc" else "there is no change data capture"


def _drop(stage: Stage, service: str) -> None:
    """End who reads it, and be quicker than its return."""
    slot = slot_of(service)

    def gone() -> bool:
        with suppress(psycopg.Error):
            stage.once(
                service,
                "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = %s",
                slot,
            )
            stage.once(service, "SELECT pg_drop_replication_slot(%s)", slot)
            return True
        with suppress(psycopg.Error):
            found = "SELECT FROM pg_replication_slots WHERE slot_name = %s"
            return not stage.once(service, found, slot)
        return False

    until(gone, f"slot {slot} is dropped", _WITHIN)


def _repair(scene: "Scene", service: str) -> None:
    began = time.monotonic()
    _until_done(scene.stage, "cdc", "begin", service)
    scene.notes.append(f"repaired in {time.monotonic() - began:.0f} s")


def _until_done(stage: Stage, *words: str) -> None:
    """As a person: again, until it can be done."""
    deadline = time.monotonic() + _WITHIN
    while (done := stage.run(*words)).returncode:
        assert time.monotonic() < deadline, f"shop {' '.join(words)}: {done.stdout}{done.stderr}"
        time.sleep(1)


def _relay_by(stage: Stage, relay: str) -> None:
    (stage.directory / RELAY).write_text(relay)
    for worker in WORKERS:
        stage.end(worker)
