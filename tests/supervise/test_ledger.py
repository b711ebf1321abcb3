"""Memory over all engines: one loads at a time, and knows what the others may still take."""

import asyncio
import random

from edged.core.memory import HOST, MemoryReport, MemoryUse
from edged.core.types import KvGeometry
from edged.engine.wire import Ready
from edged.supervise.ledger import MemoryLedger

GEOMETRY = KvGeometry(4, 1024, 256, 64, 64, 0, "q8_0", "q8_0")


def ready(*uses: MemoryUse, snapshot_bytes: int = 1000) -> Ready:
    report = MemoryReport(uses, (), 0, is_kv_limit_given=False, host_left_bytes=0)
    return Ready(
        *("sim", "a model", 0, "cpu", GEOMETRY, 512),
        can_interrupt=False,
        memory=report,
        snapshot_bytes=snapshot_bytes,
    )


ON_GPU = ready(MemoryUse("cuda:0", 5000, 3000, 200), MemoryUse(HOST, 400, 0, 30, mapped_bytes=400))


async def load(ledger: MemoryLedger, model: str, given: Ready) -> dict[str, int]:
    async with ledger.loading(model) as reserved:
        ledger.hold(model, given)
        return dict(reserved)


async def test_others_may_still_fill_their_snapshots_and_touch_their_weights() -> None:
    ledger = MemoryLedger()
    assert await load(ledger, "a", ON_GPU) == {}
    assert await load(ledger, "b", ready()) == {HOST: 1000 + 400}
    ledger.note("a", saved_bytes=600)
    assert ledger.outstanding("b") == {HOST: 1000 - 600 + 400}
    assert ledger.outstanding("c") == {HOST: 1000 - 600 + 400 + 1000}


async def test_of_an_engine_that_is_being_replaced_all_is_reserved() -> None:
    ledger = MemoryLedger()
    await load(ledger, "a", ON_GPU)
    ledger.note("a", saved_bytes=600)
    ledger.lose("a")
    assert ledger.outstanding("b") == {"cuda:0": 8200, HOST: 1000 + 430}
    assert ledger.outstanding("a") == {}
    assert ledger.held("a") == ON_GPU


async def test_a_model_that_ended_leaves_nothing() -> None:
    ledger = MemoryLedger()
    await load(ledger, "a", ON_GPU)
    ledger.lose("a")
    ledger.release("a")
    assert ledger.outstanding("b") == {}
    assert ledger.held("a") is None


async def test_a_hundred_thousand_operations_leave_the_sum_true() -> None:
    """Against a list of who was given how much of what, and has taken how much of it."""
    draw = random.Random(9)
    ledger = MemoryLedger()
    given: dict[str, Ready] = {}
    saved: dict[str, int | None] = {}
    for _ in range(100_000):
        model = draw.choice("abcd")
        match draw.randrange(4):
            case 0:
                wants = ready(
                    MemoryUse("cuda:0", draw.randrange(99), 60, 9, later_bytes=draw.randrange(70)),
                    MemoryUse(HOST, 50, 7, 1, mapped_bytes=draw.randrange(50)),
                    snapshot_bytes=draw.randrange(1, 1000),
                )
                ledger.hold(model, wants)
                given[model], saved[model] = wants, 0
            case 1 if saved.get(model) is not None:
                saved[model] = draw.randrange(given[model].snapshot_bytes)
                ledger.note(model, saved[model] or 0)
            case 2:
                ledger.lose(model)
                saved[model] = None
            case 3 if draw.random() < 0.3:
                ledger.release(model)
                given.pop(model, None)
                saved.pop(model, None)
        for asker in "ae":
            assert ledger.outstanding(asker) == expected(asker, given, saved)


def expected(asker: str, given: dict[str, Ready], saved: dict[str, int | None]) -> dict[str, int]:
    found = {"cuda:0": 0, HOST: 0}
    for model, wants in given.items():
        if model == asker:
            continue
        taken = saved[model]
        found[HOST] += wants.snapshot_bytes - (taken or 0)
        for use in wants.memory.uses if wants.memory else ():
            untaken = use.mapped_bytes + use.later_bytes
            found[use.pool] += use.num_bytes if taken is None else untaken
    return {pool: num_bytes for pool, num_bytes in found.items() if num_bytes}


async def test_one_loads_at_a_time() -> None:
    ledger, order = MemoryLedger(), list[str]()
    has_begun, may_end = asyncio.Event(), asyncio.Event()

    async def first() -> None:
        async with ledger.loading("a"):
            order.append("a loads")
            has_begun.set()
            await may_end.wait()
            order.append("a is loaded")
            ledger.hold("a", ON_GPU)

    async def second() -> None:
        async with ledger.loading("b") as reserved:
            order.append(f"b loads with {reserved[HOST]} reserved")

    tasks = [asyncio.create_task(one()) for one in (first, second)]
    await has_begun.wait()
    for _ in range(10):
        await asyncio.sleep(0)
    may_end.set()
    await asyncio.gather(*tasks)
    assert order == ["a loads", "a is loaded", "b loads with 1400 reserved"]


async def test_a_replacement_does_not_wait_for_another_model() -> None:
    ledger = MemoryLedger()
    await load(ledger, "a", ON_GPU)
    ledger.lose("a")
    async with ledger.loading("b"), asyncio.timeout(10):
        assert await load(ledger, "a", ON_GPU) == {}


async def test_a_turn_that_fails_or_is_given_up_lets_the_next_one_load() -> None:
    ledger = MemoryLedger()
    async with ledger.loading("a"):
        waiting = asyncio.create_task(load(ledger, "b", ON_GPU))
        given_up = asyncio.create_task(load(ledger, "c", ON_GPU))
        await asyncio.sleep(0)
        given_up.cancel()
    async with asyncio.timeout(10):
        assert await waiting == {}
    assert given_up.cancelled() or given_up.done()
    assert ledger.held("c") is None


def test_two_models_of_one_name_have_accounts_of_their_own() -> None:
    ledger = MemoryLedger()
    assert ledger.account("a") != ledger.account("a")
