"""The storm: rounds of cycles, each a fault or two under load, and after each round the checker.

All draws are made from the seed alone. Faults come from a shuffled deck, so that a storm of as many
cycles as there are faults has had each of them.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from random import Random
from statistics import median
from typing import NamedTuple

from tests.storm.clients import WINDOW, Crowd
from tests.storm.faults import ALL, Fault, Params, Scene
from tests.storm.planting import ask_by_key
from tests.storm.stage import Stage
from tests.storm.verdict import Faults, judge
from tests.support.load import Outcome, Sent

ENOUGH = 15
"""Orders placed after a cycle's faults are healed before the next begins."""

FULL_SPEED = 0.8
"""Of the median before the storm."""
FULL_SPURT = 0.7
"""Likewise, of orders that come as fast as they can. It is their clients that are the limit, and half
a second measures less exactly."""
SPURT = 0.5  # seconds


@dataclass(frozen=True)
class Plan:
    seed: int
    cycles: int
    round_of: int = 10
    """Cycles between two checks."""
    only: Sequence[str] = ()
    """Names of faults; all, if empty."""
    longest: float = 40.0
    """Seconds that anything is held, at most, unless it must be longer to be anything."""
    pairs: float = 0.3
    """The share of cycles in which two faults overlap."""
    apart: float = 1.5
    """Seconds between one blow and the next, at most, besides what they take themselves."""
    clients: int = 10
    calm: float = 8.0
    """Seconds in which the rate before a round's storm is taken."""


class Speed(NamedTuple):
    usual: float
    """Requests done a second, of clients who think."""
    most: float
    """Orders placed a second, of clients who do not."""

    def is_as_good_as(self, other: "Speed") -> bool:
        return self.usual >= FULL_SPEED * other.usual and self.most >= FULL_SPURT * other.most

    def __str__(self) -> str:
        return f"{self.usual:.0f} requests a second, and at most {self.most:,.0f} orders"


class Blow(NamedTuple):
    fault: Fault
    params: Params
    after: float
    """Seconds to wait before it strikes."""

    def __str__(self) -> str:
        return " ".join([self.fault.name, *(f"{k}={v}" for k, v in self.params.items())])


@dataclass
class Result:
    cycles: int = 0
    faults: Faults = field(default_factory=dict)
    requests: int = 0
    unknown: int = 0
    struck: dict[str, int] = field(default_factory=dict)
    missed: list[str] = field(default_factory=list)
    """What was to strike and did not: failpoints that nothing passed."""


def plans(plan: Plan, faults: Sequence[Fault]) -> Iterator[list[Blow]]:
    """For each cycle, one blow or two that overlap."""
    chance = Random(f"storm/{plan.seed}")
    deck: list[Fault] = []
    for _ in range(plan.cycles):
        blows: list[Blow] = []
        for _ in range(2 if chance.random() < plan.pairs else 1):
            deck = deck or chance.sample(faults, len(faults))
            fault = deck.pop()
            params = fault.draw(chance, plan.longest)
            blows.append(Blow(fault, params, chance.uniform(0, plan.apart)))
        yield blows


def possible(plan: Plan, stage: Stage, tell: Callable[[str], None]) -> list[Fault]:
    chosen = [fault for fault in ALL if not plan.only or fault.name in plan.only]
    found = []
    for fault in chosen:
        if why := fault.impossible(stage):
            tell(f"{fault.name} can't be had here: {why}")
        else:
            found.append(fault)
    return found


def run(plan: Plan, stage: Stage, tell: Callable[[str], None]) -> Result:
    """Until all cycles are done, or a check finds a fault."""
    scene = Scene(stage)
    result = Result()
    sent: list[Sent] = []
    everything = list(plans(plan, possible(plan, stage, tell)))
    for number, begin in enumerate(range(0, len(everything), plan.round_of), start=1):
        blows = everything[begin : begin + plan.round_of]
        crowd = Crowd(
            stage.ports, name=f"round{number}", clients=plan.clients, seed=plan.seed,
            token=stage.tokens.current,
        )  # fmt: skip
        slow = _round(plan, scene, crowd, blows, result, tell)
        sent += [*crowd.sent, *scene.rushed]
        scene.rushed.clear()
        result.faults = {**slow, **judge(scene, sent)}
        result.requests = len(sent)
        result.unknown = sum(one.outcome is Outcome.UNKNOWN for one in sent)
        if result.faults:
            return result
        tell(f"     checked: {len(sent)} requests, nothing wrong")
    return result


def _round(
    plan: Plan,
    scene: Scene,
    crowd: Crowd,
    cycles: Sequence[Sequence[Blow]],
    result: Result,
    tell: Callable[[str], None],
) -> Faults:
    """What is wrong with its speed; the rest is the checker's."""
    try:
        with crowd:
            crowd.until(ENOUGH, timeout=60)
            before = Speed(crowd.usual_rate(plan.calm), median(_spurt(scene) for _ in range(3)))
            for blows in cycles:
                result.cycles += 1
                _cycle(scene, crowd, blows, result, tell)
            time.sleep(max(0.0, scene.thawed_at - time.monotonic()))
            return _back_to_speed(scene, crowd, before, tell)
    except AssertionError as error:
        return {"it goes on": [str(error)]}


def _cycle(
    scene: Scene,
    crowd: Crowd,
    blows: Sequence[Blow],
    result: Result,
    tell: Callable[[str], None],
) -> None:
    begin, since = time.monotonic(), len(crowd.sent)
    scene.notes.clear()
    with ThreadPoolExecutor(len(blows)) as threads:
        struck = []
        for fault, params, after in blows:
            crowd.wait(after)
            struck.append(threads.submit(fault.strike, scene, **params))
            result.struck[fault.name] = result.struck.get(fault.name, 0) + 1
    for blow in struck:
        blow.result()
    result.missed += [note for note in scene.notes if "not reached" in note]
    try:
        crowd.until(ENOUGH, timeout=60)
    finally:
        told = crowd.counts(since)
        notes = f" ({'; '.join(scene.notes)})" if scene.notes else ""
        tell(
            f"{result.cycles:4} {' + '.join(map(str, blows))}{notes}: "
            f"{told[Outcome.DONE]} done, {told[Outcome.REFUSED]} refused, "
            f"{told[Outcome.UNKNOWN]} unknown, {time.monotonic() - begin:.1f} s"
        )


def _back_to_speed(
    scene: Scene, crowd: Crowd, before: Speed, tell: Callable[[str], None]
) -> Faults:
    """Soon after the last fault: the old speed, and events that flow."""
    within = scene.stage.options.back_within
    healed = time.monotonic()
    wrong: Faults = {}
    now = Speed(0.0, 0.0)
    while (passed := time.monotonic() - healed) < within and not now.is_as_good_as(before):
        crowd.wait(WINDOW)
        now = Speed(max(now.usual, crowd.latest_rate()), max(now.most, _spurt(scene)))
    tell(f"     {now} within {passed:.1f} s of the last fault; before the first {before}")
    if not now.is_as_good_as(before):
        wrong["back to full speed"] = [f"{now}; before the first {before}"]
    left = within - (time.monotonic() - healed)
    try:
        _have_events_flow(scene, max(5.0, left))
    except AssertionError as error:
        wrong["events flow"] = [str(error)]
    return wrong


def _spurt(scene: Scene) -> float:
    """Orders placed a second, while they come as fast as they can, beside the crowd's."""
    rush = scene.rush(clients=64, seconds=SPURT)
    return sum(sent.outcome is Outcome.DONE for sent in rush.sent) / rush.took


def _have_events_flow(scene: Scene, within: float) -> None:
    """A user just created can order: the news of her has crossed the log."""
    name = f"new-{len(scene.planted.sent)}"
    user = {"email": f"{name}@example.com", "name": name}
    created = ask_by_key(scene.stage, "create_user", "/users", user, f"{name}-user", within)
    order = {"user_id": created.answer["id"], "product": name, "quantity": 1, "total_price": "1.00"}
    placed = ask_by_key(scene.stage, "place_order", "/orders", order, f"{name}-order", within)
    scene.planted.sent += [created, placed]


def told(result: Result, seconds: float) -> str:
    """The verdict, for people."""
    asked = f"{result.requests} requests, {result.unknown} of them unknown to their clients"
    lines = [f"{result.cycles} cycles, {asked}, {seconds / 60:.1f} minutes"]
    for what, found in result.faults.items():
        lines += [f"BROKEN: {what}", *(f"    {fault}" for fault in found)]
    lines += [f"did not strike: {missed}" for missed in result.missed]
    if not result.faults:
        lines.append("nothing was lost, and nothing was done twice")
    return "\n".join(lines)
