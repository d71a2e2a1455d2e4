"""One sampler a container, however many clients stream its stats."""

from __future__ import annotations

import asyncio
import contextlib
import os
from types import SimpleNamespace
from typing import Any

import pytest

from daemon.cgroups import Stats
from daemon.containers import stats
from daemon.containers.model import Container, State
from daemon.containers.stats import Sampler


class Runtime:
    def __init__(self) -> None:
        self.readings = 0

    async def stats(self, container_id: str) -> Stats:
        self.readings += 1
        return Stats(1, self.readings)


class Registry(dict[str, Container]):
    def find(self, ref: str) -> Container:
        return self[ref]


class Context(SimpleNamespace):
    def spawn(self, work: Any, name: str) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task


@pytest.fixture
def ctx(monkeypatch: pytest.MonkeyPatch) -> Context:
    monkeypatch.setattr(stats, "INTERVAL", 0.05)
    container = Container("c" * 64, "box", 0, "", "", {}, {}, {}, (), "sh", [])
    container.state = State("running", pid=os.getpid())
    return Context(runtime=Runtime(), registry=Registry({container.id: container}), tasks=set())


async def test_a_hundred_clients_cost_one_sampler(ctx: Context) -> None:
    sampler, (container_id,) = Sampler(ctx), ctx.registry
    streams = [sampler.stream(container_id, stream=True, one_shot=False) for _ in range(100)]
    for _ in range(3):
        samples = await asyncio.gather(*(anext(stream) for stream in streams))
        assert len({id(sample) for sample in samples}) == 1  # the very same reading for everyone
    assert len(ctx.tasks) == 1
    assert ctx.runtime.readings <= 4
    for stream in streams:
        await stream.aclose()  # type: ignore[attr-defined]
    await asyncio.sleep(0.01)
    assert not ctx.tasks and not sampler._clients and not sampler._tasks


async def test_a_client_that_does_not_read_holds_nobody_up(ctx: Context) -> None:
    sampler, (container_id,) = Sampler(ctx), ctx.registry
    slow = sampler.stream(container_id, stream=True, one_shot=False)
    await anext(slow)
    quick = sampler.stream(container_id, stream=True, one_shot=False)
    for _ in range(15):
        await anext(quick)
    await slow.aclose()  # type: ignore[attr-defined]
    await quick.aclose()  # type: ignore[attr-defined]


async def test_a_stream_outlives_a_stop_and_ends_with_the_container(ctx: Context) -> None:
    sampler, (container_id,) = Sampler(ctx), ctx.registry
    container = ctx.registry[container_id]
    stream = sampler.stream(container_id, stream=True, one_shot=False)
    assert (await anext(stream))["cpu_stats"] is not None
    container.state.status = "exited"
    with contextlib.suppress(StopAsyncIteration):
        while (await anext(stream))["memory_stats"]:
            pass
    assert (await anext(stream))["pids_stats"] == {}
    container.state.status = "running"
    while not (await anext(stream))["memory_stats"]:
        pass
    del ctx.registry[container_id]
    container.state.status = "exited"
    with pytest.raises(StopAsyncIteration):
        for _ in range(20):
            await anext(stream)
