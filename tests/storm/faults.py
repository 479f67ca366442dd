"""What a storm does to the shop. Each fault strikes, holds, and is healed when its function returns.

A fault's parameters are drawn from the seed alone, never from what is going on, so that a seed gives
the same storm again.
"""

import gc
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random
from typing import Any, NamedTuple

import psutil
import psycopg

from tests.storm import capture, disk, launch, planting
from tests.storm.stage import APIS, DATABASES, MAX_WAITING, SERVERS, SERVICES, WORKERS, Stage
from tests.support.load import Outcome, Sent
from tests.support.rush import Rush
from tests.support.waiting import until

Params = Mapping[str, Any]
Draw = Callable[[Random, float], Any]
"""Given the generator, and the longest that anything may be held, in seconds."""

_NOT_REACHED = 10.0  # seconds after which a failpoint that nothing passed is disarmed
_LEADER = "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND objid = 7405 AND granted"


@dataclass
class Scene:
    """What faults strike, and what they leave behind for the checker to know of."""

    stage: Stage
    planted: planting.Planted = field(default_factory=planting.Planted)
    rushed: list[Sent] = field(default_factory=list)
    """Orders of this round that came as fast as they could."""
    customers: Sequence[int] = ()
    """Who rushes."""
    thawed_at: float = 0.0
    """When the last process that froze at a failpoint goes on; by the monotonic clock."""
    notes: list[str] = field(default_factory=list)
    """Of the present cycle."""

    def rush(self, *, clients: int, seconds: float, api: int = 0) -> Rush:
        """Orders to one of the order service's APIs, beside those of the crowd."""
        if not self.customers:
            # For good: later, while something strikes, there may be nobody to ask.
            rows = self.stage.rows("orders", "SELECT id FROM customers ORDER BY id LIMIT 100")
            self.customers = [id_ for (id_,) in rows]
        name = f"rush-{time.monotonic_ns()}"
        port = self.stage.ports["orders"][api]
        # All that was ever sent is kept here, and to collect among it would be a tenth of the time.
        gc.disable()
        try:
            token = self.stage.tokens.current()
            with Rush(port, self.customers, name=name, clients=clients, token=token) as rush:
                time.sleep(seconds)
        finally:
            gc.enable()
        self.rushed += rush.sent
        return rush


class Fault(NamedTuple):
    name: str
    draws: Mapping[str, Draw]
    strike: Callable[..., None]
    """Given the scene and what was drawn. Two faults may be at it at once, each in its thread."""
    impossible: Callable[[Stage], str | None] = lambda _: None
    """Why it can't be had here, if it can't."""

    def draw(self, chance: Random, longest: float) -> Params:
        return {name: draw(chance, longest) for name, draw in self.draws.items()}


# Drawing


def one_of(*names: str) -> Draw:
    return lambda chance, _: chance.choice(names)


def seconds(least: float, most: float) -> Draw:
    """Short ones and long ones: each doubling as likely as the next."""

    def draw(chance: Random, longest: float) -> float:
        top = max(least, min(most, longest))
        return round(math.exp(chance.uniform(math.log(least), math.log(top))), 2)

    return draw


def number(least: int, most: int) -> Draw:
    return lambda chance, _: chance.randint(least, most)


def action(least: float, most: float) -> Draw:
    """What happens at a failpoint: to its process, or only to what passes there."""
    stop = seconds(least, most)

    def draw(chance: Random, longest: float) -> str:
        deed = chance.choices(["kill", "freeze", "pause"], [5, 4, 1])[0]
        # Drawn for a kill too, so that what comes after does not depend on which it is.
        time = stop(chance, longest)
        return deed if deed == "kill" else f"{deed} {time:g}"

    return draw


# Striking


def _kill(scene: Scene, victim: str) -> None:
    scene.stage.kill(victim)


def _stop(scene: Scene, victim: str) -> None:
    scene.stage.end(victim)


def _rotate_keys(scene: Scene) -> None:
    """The next key signs, and one after it is published, unless the next one has only just been."""
    stage = scene.stage
    if time.monotonic() - stage.rotated_at < stage.options.key_lead:
        scene.notes.append("the next key is too young")
        return
    done = stage.run("keys", "rotate")
    stage.rotated_at = time.monotonic()
    scene.notes.append((done.stdout + done.stderr).strip().replace("\n", ", ")[-200:])


def _rush(scene: Scene, api: int, hold: float) -> None:
    """More clients than an API lets wait."""
    rush = scene.rush(clients=4 * MAX_WAITING, seconds=hold, api=api)
    refused = sum(sent.outcome is Outcome.REFUSED for sent in rush.sent)
    scene.notes.append(f"{refused} of {len(rush.sent)} orders refused")


def _kill_backend(scene: Scene, service: str, which: int) -> None:
    """PostgreSQL then ends all the others too, and recovers as from a crash."""
    rows = scene.stage.rows(
        service,
        "SELECT pid FROM pg_stat_activity"
        " WHERE datname = %s AND pid <> pg_backend_pid() ORDER BY pid",
        service,
    )
    if rows:
        with suppress(psutil.NoSuchProcess):
            psutil.Process(rows[which % len(rows)][0]).kill()


def _freeze(scene: Scene, victim: str, hold: float) -> None:
    scene.stage.freeze(victim)
    try:
        time.sleep(hold)
    finally:
        scene.stage.thaw(victim)


def _terminate(scene: Scene, service: str, times: int, pause: float) -> None:
    for _ in range(times):
        scene.stage.rows(
            service,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = %s AND pid <> pg_backend_pid()",
            service,
        )
        time.sleep(pause)


def _two_relays(scene: Scene, service: str, hold: float) -> None:
    """The leader freezes with a batch in its hands, loses its office, and appends it after all."""
    action = f"freeze {hold:g}"
    if _arm(scene, f"{service}-worker", "relay-read", action):
        ended = scene.stage.rows(service, f"SELECT pg_terminate_backend(pid) FROM ({_LEADER}) AS l")
        scene.notes.append(f"{len(ended)} lost leadership")
        time.sleep(hold)


def _shuffle(scene: Scene, service: str, which: int, hold: float) -> None:
    """One worker comes, another goes, and comes again; then the first goes."""
    workers = [name for name in WORKERS if name.startswith(service)]
    another = scene.stage.another_worker(service, len(workers) + 1)
    another.start()
    try:
        until(lambda: "worker.started" in "".join(another.log.tail()), "another worker works", 60)
        scene.stage.end(workers[which % len(workers)])
        time.sleep(hold)
    finally:
        another.stop(10)


def _full_disk(scene: Scene, server: str, hold: float, new_segment: int) -> None:
    """PostgreSQL refuses what needs room; when its write-ahead log needs some, it dies of it."""
    small = scene.stage.disks[server]
    small.fill()
    try:
        if new_segment and not (server == "log" and scene.stage.options.on_kafka):
            # Ends with the server it kills.
            with suppress(psycopg.Error):
                scene.stage.once(server.removesuffix("-db"), "SELECT pg_switch_wal()")
        time.sleep(hold)
    finally:
        small.free()
        scene.stage.living(server)


def _no_small_disk(stage: Stage) -> str | None:
    return disk.possible() if stage.options.full_disks else "not asked for"


def _cut(scene: Scene, server: str, times: int, pause: float) -> None:
    for _ in range(times):
        scene.stage.proxies[server].cut()
        time.sleep(pause)


def _delay(scene: Scene, server: str, by: float, hold: float) -> None:
    proxy = scene.stage.proxies[server]
    proxy.delay(by)
    try:
        time.sleep(hold)
    finally:
        proxy.heal()


def _half_close(scene: Scene, server: str, towards: str, hold: float) -> None:
    scene.stage.proxies[server].half_close(towards)  # type: ignore[arg-type]
    time.sleep(hold)


def _hold(scene: Scene, server: str, hold: float, then: str) -> None:
    """Nothing moves; then it goes on, or is found cut."""
    proxy = scene.stage.proxies[server]
    proxy.hold()
    try:
        time.sleep(hold)
    finally:
        if then == "cut":
            proxy.cut()
        proxy.heal()


def _refuse(scene: Scene, server: str, hold: float) -> None:
    proxy = scene.stage.proxies[server]
    proxy.refuse()
    proxy.cut()
    try:
        time.sleep(hold)
    finally:
        proxy.heal()


def _crash_in_transit(scene: Scene, service: str, by: float, hold: float) -> None:
    """The log is far away, and workers die with messages on their way to it."""
    proxy = scene.stage.proxies["log"]
    proxy.delay(by)
    try:
        time.sleep(hold)
        for name in WORKERS:
            if name.startswith(service):
                scene.stage.kill(name)
    finally:
        proxy.heal()


def _read_and_freeze(scene: Scene, process: str, hold: float) -> None:
    """A member thaws with records in its hands that others have applied in the meantime.

    Kafka gives its partitions to others after 6 s, the log that is a table after 15.
    """
    hold += 9 if scene.stage.options.log == "postgres" else 0
    _arm(scene, process, "read", f"freeze {hold:g}")


def _failpoint(
    point: str, process: Draw, impossible: Callable[[Stage], str | None] = lambda _: None
) -> Fault:
    draws = {"process": process, "action": action(1, 20)}

    def strike(scene: Scene, process: str, action: str) -> None:
        _arm(scene, process, point, action)

    return Fault(point, draws, strike, impossible)


def _arm(scene: Scene, process: str, point: str, action: str) -> bool:
    """Whether a process of this kind passed there in time."""
    directory = scene.stage.armed(process)
    launch.arm(directory, point, action)
    began = time.monotonic()
    try:
        until(lambda: not (directory / point).exists(), point, _NOT_REACHED)
    except AssertionError:
        (directory / point).unlink(missing_ok=True)
        scene.notes.append(f"{point} was not reached")
        return False
    now = time.monotonic()
    scene.notes.append(f"{point} after {now - began:.1f} s")
    if action != "kill":
        scene.thawed_at = max(scene.thawed_at, now + float(action.split()[1]))
    return True


def _planted(plant: Callable[..., str]) -> Callable[..., None]:
    def strike(scene: Scene, **params: Any) -> None:
        scene.notes.append(plant(scene.stage, scene.planted, **params))

    return strike


def _one_partition(stage: Stage) -> str | None:
    return "its log has one partition" if stage.options.log == "postgres" else None


_ANY_API = one_of(*(name.rpartition("-")[0] for name in APIS))
_ANY_WORKER = one_of(*(f"{service}-worker" for service in SERVICES))
_SERVICE = one_of(*SERVICES)
_SERVER = one_of(*SERVERS)

ALL: Sequence[Fault] = (
    Fault("kill-api", {"victim": one_of(*APIS)}, _kill),
    Fault("stop-api", {"victim": one_of(*APIS)}, _stop),
    Fault("kill-worker", {"victim": one_of(*WORKERS)}, _kill),
    Fault("kill-backend", {"service": _SERVICE, "which": number(0, 99)}, _kill_backend),
    Fault("kill-postgres", {"victim": one_of(*DATABASES)}, _kill),
    Fault("kill-log", {"victim": one_of("log")}, _kill),
    Fault("freeze-api", {"victim": one_of(*APIS), "hold": seconds(1, 40)}, _freeze),
    Fault("freeze-worker", {"victim": one_of(*WORKERS), "hold": seconds(1, 40)}, _freeze),
    Fault("freeze-server", {"victim": _SERVER, "hold": seconds(1, 40)}, _freeze),
    Fault(
        "terminate", {"service": _SERVICE, "times": number(1, 5), "pause": seconds(0.05, 0.5)},
        _terminate,
    ),
    Fault("rotate-keys", {}, _rotate_keys),
    Fault("rush", {"api": number(0, 1), "hold": seconds(1, 4)}, _rush),
    Fault(
        "two-relays", {"service": _SERVICE, "hold": seconds(2, 8)}, _two_relays, capture.only_polling
    ),
    Fault(
        "shuffle", {"service": _SERVICE, "which": number(0, 99), "hold": seconds(0.3, 5)}, _shuffle
    ),
    Fault(
        "full-disk", {"server": _SERVER, "hold": seconds(1, 10), "new_segment": number(0, 1)},
        _full_disk, _no_small_disk,
    ),
    Fault("cut", {"server": _SERVER, "times": number(1, 5), "pause": seconds(0.05, 0.5)}, _cut),
    Fault("delay", {"server": _SERVER, "by": seconds(0.02, 0.5), "hold": seconds(1, 10)}, _delay),
    Fault(
        "half-close",
        {"server": _SERVER, "towards": one_of("client", "server"), "hold": seconds(0.3, 5)},
        _half_close,
    ),
    Fault(
        "hold", {"server": _SERVER, "hold": seconds(0.5, 20), "then": one_of("go on", "cut")}, _hold
    ),
    Fault(
        "crash-in-transit",
        # Mostly orders: of users there is too little to be on its way to many partitions at once.
        {"service": one_of("orders", "orders", "users"), "by": seconds(0.1, 0.4), "hold": seconds(1.5, 4)},
        _crash_in_transit,
    ),
    Fault("refuse", {"server": _SERVER, "hold": seconds(0.5, 10)}, _refuse),
    *(_failpoint(point, _ANY_API) for point in ("committing", "committed")),
    *(
        _failpoint(point, _ANY_WORKER, capture.only_polling)
        for point in ("relay-read", "appending", "appended", "saved")
    ),
    *(_failpoint(point, _ANY_WORKER) for point in ("effects", "applied")),
    # There are more orders to read than users.
    Fault(
        "read",
        {"process": one_of("users-worker", "users-worker", "orders-worker"), "hold": seconds(9, 15)},
        _read_and_freeze,
    ),
    Fault(
        "duplicate",
        {"topic": _SERVICE, "back": number(0, 200), "length": number(1, 50), "which": number(0, 99)},
        _planted(planting.duplicate),
    ),
    Fault("poison", {"topic": _SERVICE, "which": number(0, 9999)}, _planted(planting.poison)),
    Fault(
        "forge", {"topic": _SERVICE, "which": number(0, 99)}, _planted(planting.forge), _one_partition
    ),
    Fault(
        "unfit", {"topic": one_of(*(topic for topic, readers in planting.READERS.items() if readers))},
        _planted(planting.unfit),
    ),
    Fault("kill-connect", {}, capture.kill_connect, capture.only_cdc),
    Fault("freeze-connect", {"hold": seconds(1, 20)}, capture.freeze_connect, capture.only_cdc),
    Fault("drop-slot", {"service": _SERVICE}, capture.drop_slot, capture.only_cdc),
    Fault("drop-offsets", {}, capture.drop_offsets, capture.only_cdc),
    Fault("drop-both", {"service": _SERVICE}, capture.drop_both, capture.only_cdc),
    Fault("slot-limit", {"service": _SERVICE}, capture.exceed_limit, capture.only_cdc),
    Fault("turn", {"hold": seconds(1, 8)}, capture.turn, capture.only_cdc),
)  # fmt: skip
