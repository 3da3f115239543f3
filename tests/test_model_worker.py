"""The thread of a model: one for all calls of an engine, and in order."""

from __future__ import annotations

import asyncio
import threading

import pytest
from segment_streams import Model, speech, start, turns_of_the_loop

from runtime.engines.worker import ModelWorker
from runtime.errors import EngineFailed


def test_work_of_one_engine_runs_on_one_thread_in_order_of_arrival() -> None:
    async def main() -> tuple[list[int], set[str]]:
        worker = ModelWorker("scripted")
        order: list[int] = []
        threads: set[str] = set()

        def work(number: int) -> None:
            order.append(number)
            threads.add(threading.current_thread().name)

        await asyncio.gather(*(worker.run(work, number) for number in range(50)))
        worker.close()
        return order, threads

    order, threads = asyncio.run(main())
    assert order == list(range(50))
    assert len(threads) == 1
    assert threads.pop().startswith("scripted")


def test_cancelled_work_that_waits_is_never_begun() -> None:
    async def main() -> list[str]:
        worker, model, done = ModelWorker("scripted"), Model(), []
        model.may_go_on.clear()
        first = await start(worker.run(model, speech(1)))
        second = await start(worker.run(done.append, "second"))
        third = await start(worker.run(done.append, "third"))
        second.cancel()
        await turns_of_the_loop()
        model.may_go_on.set()
        await asyncio.gather(first, third)
        assert second.cancelled()
        worker.close()
        return done

    assert asyncio.run(main()) == ["third"]


def test_an_engine_that_was_closed_fails_its_calls() -> None:
    async def main() -> None:
        worker = ModelWorker("scripted")
        worker.close()
        with pytest.raises(EngineFailed, match="scripted has been closed"):
            await worker.run(len, "")

    asyncio.run(main())
