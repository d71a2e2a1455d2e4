"""BuildKit's door without its connections: what is told of a build, how errors look, what is remembered."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from api.buildkit.control import order_of
from daemon.build.dockerfile.source import DockerfileError, Source, Span, locate
from daemon.build.doors import failure, second
from daemon.build.doors.bridge import Stopped
from daemon.build.doors.fronts import Failed, UnsupportedSubrequest
from daemon.build.doors.history import History, Past
from daemon.build.doors.telling import MOST, Teller
from daemon.build.graph import About, Exec, Output, Vertex
from daemon.build.proto import control_pb2, rpc_pb2
from daemon.build.request import BuildRequest
from daemon.build.solver.solve import StepFailed
from daemon.build.steps import CANCELED, Feed, Progress, Remark
from storage.errors import InvalidArgument, NotFound, Unavailable

FILE = Source("Dockerfile", ("FROM busybox", "RUN false", ""))


def vertex(name: str, *inputs: Vertex, span: Span | None = None) -> Vertex:
    process = Exec((name,), (), "/", "")
    return Vertex(process, tuple(Output(each) for each in inputs), About(name, span, text=FILE))


# -- telling


def test_a_step_is_told_once_and_in_order() -> None:
    below = vertex("below")
    progress = Progress(vertex("step", below))
    teller = Teller()
    progress.start()
    progress.log(b"out\n")
    (first,) = teller.tell([progress])
    assert [(each.name, list(each.inputs)) for each in first.vertexes] == [("step", [below.digest])]
    assert not first.vertexes[0].HasField("completed")
    assert [(each.msg, each.stream) for each in first.logs] == [(b"out\n", 1)]
    assert teller.tell([progress]) == []
    progress.log(b"err\n", 2)
    progress.finish("failed", "it broke")
    (last,) = teller.tell([progress])
    assert last.vertexes[0].error == "it broke"
    assert last.vertexes[0].completed.ToNanoseconds() >= first.vertexes[0].started.ToNanoseconds()
    assert [(each.msg, each.stream) for each in last.logs] == [(b"err\n", 2)]


def test_cached_steps_have_both_times_and_stopped_ones_that_never_began_none() -> None:
    cached, never, stopped = (Progress(vertex(name)) for name in ("cached", "never", "stopped"))
    cached.finish("cached")
    never.finish("failed", CANCELED)
    stopped.start()
    stopped.finish("failed", CANCELED)
    (told,) = Teller().tell([cached, never, stopped])
    shown = {each.name: each for each in told.vertexes}
    assert set(shown) == {"cached", "stopped"}
    assert shown["cached"].cached
    assert shown["cached"].started == shown["cached"].completed
    assert shown["stopped"].error == CANCELED


def test_statuses_and_warnings() -> None:
    progress, teller = Progress(vertex("export")), Teller()
    with progress.status("exporting layers") as status:
        (begun,) = teller.tell([progress])
        status.advance(5, 10)
        (half,) = teller.tell([progress])
    progress.warn(
        Remark("Rule: text (line 2)", ("more",), "https://x", 1, "Dockerfile", b"...", (Span(2, 2),))
    )
    (done,) = teller.tell([progress])
    lines = [each for message in (begun, half, done) for each in message.statuses]
    assert [(each.id, each.current, each.total) for each in lines] == [
        ("exporting layers", 0, 0),
        ("exporting layers", 5, 10),
        ("exporting layers", 5, 10),
    ]
    assert [each.HasField("completed") for each in lines] == [False, False, True]
    (warning,) = done.warnings
    assert (warning.short, warning.ranges[0].start.line, warning.info.filename) == (
        b"Rule: text (line 2)",
        2,
        "Dockerfile",
    )


def test_much_output_comes_in_messages_that_clients_take() -> None:
    progress = Progress(vertex("loud"))
    progress.start()
    for _ in range(30):
        progress.log(bytes(60_000))
    messages = Teller().tell([progress])
    assert len(messages) == 2
    assert all(message.ByteSize() < MOST + 100_000 for message in messages)
    assert sum(len(log.msg) for message in messages for log in message.logs) == 1_800_000


async def test_readers_of_a_feed_see_all_each_at_its_own_pace() -> None:
    feed = Feed()
    early = Progress(vertex("early"), notify=feed.note)
    early.start()

    async def read(pause: float) -> list[str]:
        return [each.name for some in [x async for x in feed.read(pause)] for each in some]

    quick, slow = asyncio.ensure_future(read(0)), asyncio.ensure_future(read(30))
    await asyncio.sleep(0)
    later = Progress(vertex("later"), notify=feed.note)
    for _ in range(3):
        later.wake()
        await asyncio.sleep(0.01)
    feed.close()
    assert (await asyncio.wait_for(quick, 1)) == ["early", "later", "later", "later"]
    assert set(await asyncio.wait_for(slow, 1)) == {"early", "later"}  # the end does not wait for the pause
    assert [each.name for some in [x async for x in feed.read()] for each in some] == ["early", "later"]


# -- errors


def details(error: BaseException) -> dict[str, Any]:
    return {
        each.type_url.rpartition("/")[2]: json.loads(each.value) for each in failure.status(error).details
    }


def test_errors_of_a_dockerfile_carry_the_place_and_not_the_excerpt() -> None:
    error = DockerfileError("unknown instruction: RUNN", FILE, [Span(2, 2)])
    found = failure.status(error)
    assert (found.code, found.message) == (2, "unknown instruction: RUNN")
    source = details(error)["errdefs.Source+json"]
    assert source["ranges"] == [{"start": {"line": 2}, "end": {"line": 2}}]
    assert source["info"]["filename"] == "Dockerfile"
    assert source["info"]["data"] == "RlJPTSBidXN5Ym94ClJVTiBmYWxzZQo="


def test_a_failed_step_carries_its_place_and_its_vertex() -> None:
    step = vertex("RUN false", span=Span(2, 2))
    failed = StepFailed(InvalidArgument("exit code: 1"), step, Progress(step))
    found = details(failed)
    assert list(found) == ["errdefs.Source+json", "errdefs.Vertex+json"]
    assert found["errdefs.Vertex+json"] == {"digest": step.digest}


def test_other_errors() -> None:
    gone = Unavailable("no registry")
    assert details(gone) == {}
    locate(gone, FILE, Span(1, 1))
    assert details(gone)["errdefs.Source+json"]["ranges"][0]["start"] == {"line": 1}
    assert failure.status(asyncio.CancelledError()).code == failure.CANCELLED
    assert failure.status(Stopped()).message == "context canceled"
    assert details(UnsupportedSubrequest("frontend.x"))["errdefs.Subrequest+json"] == {"name": "frontend.x"}
    assert failure.status(KeyError("x")).code == failure.INTERNAL
    own = rpc_pb2.Status(code=9, message="as the client said")
    assert failure.status(Failed("as the client said", own)) == own


# -- orders


def test_orders_of_old_clients() -> None:
    request = control_pb2.SolveRequest(
        ref="r",
        exporter_deprecated="image",
        exporter_attrs_deprecated={"name": "x"},
        frontend_attrs={"build-arg:SOURCE_DATE_EPOCH": "7"},
        cache=control_pb2.CacheOptions(
            export_ref_deprecated="reg/out",
            export_attrs_deprecated={"mode": "max"},
            import_refs_deprecated=["reg/in"],
        ),
    )
    order = order_of(request)
    (exporter,) = order.exporters
    assert (exporter.type, exporter.attrs) == ("image", {"name": "x", "source-date-epoch": "7"})
    assert order.cache_imports == (("registry", {"ref": "reg/in"}),)
    assert order.cache_exports == (("registry", {"mode": "max", "ref": "reg/out"}),)
    assert order.definition is None


def test_orders_of_the_older_endpoint() -> None:
    request = BuildRequest(
        dockerfile="D", tags=("a", "b"), remote="client-session", no_cache=True, pull=True, network="host",
        arguments={"A": "1", "unset": None}, labels={"l": "2"}, extra_hosts=("h:1.2.3.4",),
        host={"ShmSize": 64, "Ulimits": [{"Name": "nofile", "Soft": 1, "Hard": 2}]},
    )  # fmt: skip
    order = second.order(request, "s1", [])
    assert order.session == "s1"
    assert dict(order.attrs) == {
        "filename": "D",
        "image-resolve-mode": "pull",
        "add-hosts": "h=1.2.3.4",
        "build-arg:A": "1",
        "label:l": "2",
        "no-cache": "",
        "force-network-mode": "host",
        "shm-size": "64",
        "ulimit": "nofile=1:2",
    }
    assert order.exporters[0].attrs == {"name": "a,b"}
    assert order.entitlements == {"network.host"}
    kept = second.order(BuildRequest(), "", [{"Type": "local", "Attrs": {"dest": "x"}}])
    assert (kept.exporters[0].type, kept.exporters[0].attrs) == ("local", {"dest": "x"})
    with pytest.raises(InvalidArgument, match="multiple outputs"):
        second.order(request, "", [{}, {}])
    with pytest.raises(InvalidArgument, match="not supported by buildkit"):
        second.order(BuildRequest(network="container:x"), "", [])


# -- history


def past(ref: str, completed: int = 1) -> Past:
    return Past(ref, created=1, completed=completed)


async def test_listeners_hear_what_there_is_and_what_happens(tmp_path: Path) -> None:
    history = History(tmp_path)
    history._records = {each.ref: each for each in (past("one"), past("two", completed=0))}
    assert [(event, each.ref) async for event, each in history.listen(early_exit=True)] == [
        ("started", "two"),
        ("complete", "one"),
    ]
    assert [each.ref async for _, each in history.listen(active_only=True, early_exit=True)] == ["two"]
    assert [each.ref async for _, each in history.listen(ref="none", early_exit=True)] == []
    heard = []

    async def hear() -> None:
        async for event, each in history.listen():
            heard.append((event, each.ref))
            if len(heard) == 4:
                return

    listening = asyncio.ensure_future(hear())
    await asyncio.sleep(0)
    history.pin("one", True)
    history.delete("one")
    await asyncio.wait_for(listening, 1)
    assert heard[2:] == [("complete", "one"), ("deleted", "one")]
    with pytest.raises(NotFound, match="could not find build one"):
        history.delete("one")
    await history.settle()


def written(directory: Path) -> list[str]:
    return [path.name for path in directory.rglob("*.json")]


async def test_records_outlive_the_daemon_whatever_their_names(tmp_path: Path) -> None:
    history = History(tmp_path / "history")
    history._records = {each.ref: each for each in (past("one"), past("../two"))}
    history.pin("one", True)
    history.pin("../two", True)
    await history.settle()
    assert written(tmp_path) == ["one.json"]
    (tmp_path / "history" / "broken.json").write_text("{")
    again = History(tmp_path / "history")
    known = again.get("one")
    assert known is not None
    assert known.pinned
    assert again.get("../two") is None
