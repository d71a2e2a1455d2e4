"""Statuses, headers and bodies over a real connection, as dockerd 28.5 gives them."""

from __future__ import annotations

import asyncio
import json

import pytest

from tests.unit.api_fake import ID, FakeEngine, Served, read_head, serving

JSON = {"Content_Type": "application/json"}


@pytest.fixture
async def served():
    async with serving() as running:
        yield running


def message(payload: bytes) -> str:
    assert payload.endswith(b"\n")
    return json.loads(payload)["message"]


async def test_ping(served: Served) -> None:
    status, headers, payload = await served.ask("GET", "/_ping")
    assert (status, payload) == (200, b"OK")
    expected = {
        "api-version": "1.51",
        "docker-experimental": "false",
        "ostype": "linux",
        "swarm": "inactive",
        "builder-version": "1",
        "cache-control": "no-cache, no-store, must-revalidate",
        "pragma": "no-cache",
        "content-type": "text/plain; charset=utf-8",
        "content-length": "2",
    }
    assert {name: headers.get(name) for name in expected} == expected
    assert "date" in headers and headers["server"].startswith("pyd/")


async def test_ping_by_head(served: Served) -> None:
    status, headers, payload = await served.ask("HEAD", "/v1.40/_ping")
    assert (status, payload, headers["content-length"]) == (200, b"", "0")


@pytest.mark.parametrize("path", ["/nope", "/vx/version", "/v1.51/nope", "/v1.51", "/", "/v1.51/"])
async def test_no_such_page(served: Served, path: str) -> None:
    status, headers, payload = await served.ask("GET", path)
    assert (status, message(payload)) == (404, "page not found")
    assert headers["content-type"] == "application/json"


async def test_a_wrong_method_is_no_page_either(served: Served) -> None:
    assert (await served.ask("PUT", "/_ping"))[0] == 404


async def test_options_is_answered_everywhere(served: Served) -> None:
    status, _, payload = await served.ask("OPTIONS", "/info")
    assert (status, payload) == (200, b"")


@pytest.mark.parametrize("path", ["/version", "/v1.24/version", "/v1.51/version"])
async def test_versions_in_range_are_served(served: Served, path: str) -> None:
    status, _, payload = await served.ask("GET", path)
    assert (status, json.loads(payload)["ApiVersion"]) == (200, "1.51")
    assert payload.endswith(b"}\n")


async def test_a_client_too_old_gets_plain_text(served: Served) -> None:
    status, headers, payload = await served.ask("GET", "/v1.23/_ping")
    assert status == 400
    assert headers["content-type"] == "text/plain; charset=utf-8"
    assert payload.startswith(b"client version 1.23 is too old.")


async def test_a_client_too_new_gets_json(served: Served) -> None:
    status, _, payload = await served.ask("GET", "/v1.52/version")
    assert status == 400
    assert message(payload) == "client version 1.52 is too new. Maximum supported API version is 1.51"


async def test_errors_have_dockers_form(served: Served) -> None:
    status, _, payload = await served.ask("GET", "/containers/nope/json")
    assert (status, message(payload)) == (404, "No such container: nope")
    status, _, payload = await served.ask("POST", "/containers/box/kill")
    assert (status, message(payload)) == (
        409,
        f"cannot kill container: box: container {ID} is not running",
    )
    status, _, payload = await served.ask("GET", "/containers/box/top")
    assert (status, message(payload)) == (501, "top is not there yet")


async def test_not_modified_has_no_body(served: Served) -> None:
    status, headers, payload = await served.ask("POST", "/containers/box/start")
    assert (status, payload) == (304, b"")
    assert "content-length" not in headers and "transfer-encoding" not in headers


async def test_no_content_has_no_body(served: Served) -> None:
    status, headers, payload = await served.ask("POST", "/containers/box/stop?t=3&signal=INT")
    assert (status, payload) == (204, b"")
    assert "content-length" not in headers and "transfer-encoding" not in headers
    assert served.engine.containers.seen["stop"] == (ID, {"timeout": 3, "signal": "INT"})


async def test_the_signal_of_stop_came_with_1_42(served: Served) -> None:
    await served.ask("POST", "/v1.41/containers/box/stop?signal=INT")
    assert served.engine.containers.seen["stop"] == (ID, {"timeout": None, "signal": None})


async def test_a_bug_is_a_500_and_the_daemon_goes_on(served: Served) -> None:
    status, _, payload = await served.ask("POST", "/containers/box/pause")
    assert (status, message(payload)) == (500, "a bug")
    assert (await served.ask("GET", "/_ping"))[0] == 200


async def test_create(served: Served) -> None:
    status, _, payload = await served.ask(
        "POST", "/v1.44/containers/create?name=x&platform=linux/amd64", b'{"image":"a"}', **JSON
    )
    assert (status, json.loads(payload)) == (201, {"Id": ID, "Warnings": []})
    name, request, *rest = served.engine.containers.seen["create"]
    assert (name, request["Image"], rest) == ("x", "a", ["linux/amd64", (1, 44)])


@pytest.mark.parametrize(
    ("body", "headers", "expected"),
    [
        (b"", {}, "invalid JSON: got EOF while reading request body"),
        (b"{}", JSON, "config cannot be empty in order to create a container"),
        (b"null", JSON, "config cannot be empty in order to create a container"),
        (
            b"{}",
            {"Content_Type": "text/plain"},
            "unsupported Content-Type header (text/plain): must be 'application/json'",
        ),
        (b'{"a"', JSON, "invalid JSON: unexpected EOF"),
    ],
)
async def test_create_refuses_bad_bodies(
    served: Served, body: bytes, headers: dict[str, str], expected: str
) -> None:
    status, _, payload = await served.ask("POST", "/containers/create", body, **headers)
    assert (status, message(payload)) == (400, expected)


async def test_a_name_in_use_is_a_conflict(served: Served) -> None:
    status, _, _ = await served.ask("POST", "/containers/create?name=taken", b'{"Image":"a"}', **JSON)
    assert status == 409


async def test_start_with_a_body_is_refused(served: Served) -> None:
    status, _, payload = await served.ask("POST", "/containers/box/start", b'{"HostConfig":{}}')
    assert status == 400
    assert message(payload).startswith("starting container with non-empty request body")


async def test_list_passes_its_query_on(served: Served) -> None:
    query = 'all=1&limit=5&size=true&filters={"status":{"exited":true}}'
    status, _, _ = await served.ask("GET", "/containers/json?" + query.replace('"', "%22"))
    assert status == 200
    assert served.engine.containers.seen["list"] == {
        "all": True,
        "limit": 5,
        "size": True,
        "filters": {"status": ["exited"]},
    }


async def test_swarm_answers_as_outside_a_swarm(served: Served) -> None:
    for method, path in (("GET", "/nodes"), ("GET", "/v1.51/swarm"), ("POST", "/services/create")):
        status, _, payload = await served.ask(method, path)
        assert status == 503
        assert message(payload).startswith("This node is not a swarm manager.")
    status, _, payload = await served.ask("POST", "/swarm/leave")
    assert (status, message(payload)) == (503, "This node is not part of a swarm")


async def test_operations_not_there_yet_say_so(served: Served) -> None:
    status, _, payload = await served.ask("POST", "/plugins/pull")
    assert (status, message(payload)) == (501, "PluginPull: managed plugins are not supported")
    status, _, payload = await served.ask("POST", "/session")
    assert (status, message(payload)) == (400, "no upgrade proto in request")
    status, _, payload = await served.ask("GET", "/plugins/a/b/json")
    assert (status, message(payload)) == (404, 'plugin "a/b" not found')


async def test_a_stat_travels_in_a_header(served: Served) -> None:
    status, headers, payload = await served.ask("HEAD", "/containers/box/archive?path=/etc/hosts")
    assert (status, payload) == (200, b"")
    import base64

    stat = json.loads(base64.b64decode(headers["x-docker-container-path-stat"]))
    assert (stat["name"], stat["size"]) == ("/etc/hosts", 3)
    status, headers, payload = await served.ask("GET", "/containers/box/archive?path=/x")
    assert (status, headers["content-type"], len(payload)) == (200, "application/x-tar", 1024)
    assert "x-docker-container-path-stat" in headers
    status, _, payload = await served.ask("GET", "/containers/box/archive")
    assert (status, message(payload)) == (400, "bad parameter: path cannot be empty")


async def test_an_upload_arrives_whole(served: Served) -> None:
    body = bytes(300_000)
    status, _, _ = await served.ask("PUT", "/containers/box/archive?path=/&copyUIDGID=1", body)
    assert status == 200
    assert served.engine.containers.uploaded == body
    assert served.engine.containers.seen["archive_put"] == (
        "/",
        {"no_overwrite_dir_non_dir": False, "copy_uidgid": True},
    )


async def test_an_upload_cut_short_is_no_upload(served: Served) -> None:
    _, writer = await served.raw(
        "PUT /containers/box/archive?path=/ HTTP/1.1\r\nHost: d\r\nContent-Length: 1000\r\n\r\nabc"
    )
    await asyncio.sleep(0.05)
    writer.close()
    await asyncio.sleep(0.1)
    assert served.engine.containers.upload_error is not None


async def test_images_with_slashes_in_their_names(served: Served) -> None:
    status, _, payload = await served.ask("GET", "/v1.51/images/localhost:5000/a/b:1/json")
    assert (status, json.loads(payload)["RepoTags"]) == (200, ["localhost:5000/a/b:1"])
    assert "Descriptor" in json.loads(payload)
    _, _, payload = await served.ask("GET", "/v1.43/images/a/json")
    assert "Descriptor" not in json.loads(payload)
    assert json.loads(payload)["VirtualSize"] == 5


async def test_a_missing_image_has_a_status(served: Served) -> None:
    status, _, payload = await served.ask("POST", "/images/create?fromImage=missing&tag=1")
    assert (status, message(payload)) == (404, "pull access denied for missing")


async def test_an_error_after_the_first_line_is_in_the_stream(served: Served) -> None:
    status, headers, payload = await served.ask("POST", "/images/create?fromImage=broken&tag=1")
    assert (status, headers["transfer-encoding"]) == (200, "chunked")
    assert [json.loads(line) for line in payload.split(b"\r\n")[:-1]] == [
        {"status": "Pulling from broken", "id": "1"},
        {"errorDetail": {"message": "manifest unknown"}, "error": "manifest unknown"},
    ]


async def test_load_takes_the_body_as_it_comes(served: Served) -> None:
    status, _, payload = await served.ask("POST", "/images/load", bytes(200_000))
    assert (status, json.loads(payload)) == (200, {"stream": "Loaded 200000 bytes\n"})


async def test_login(served: Served) -> None:
    status, _, payload = await served.ask("POST", "/auth", b'{"Username":"u","password":"p"}', **JSON)
    assert (status, json.loads(payload)["Status"]) == (200, "Login Succeeded")
    assert served.engine.images.seen["login"].username == "u"


async def test_disk_usage_refuses_unknown_types(served: Served) -> None:
    status, _, payload = await served.ask("GET", "/system/df?type=x")
    assert (status, message(payload)) == (400, "unknown object type: x")
    _, _, payload = await served.ask("GET", "/system/df?type=image&type=volume")
    assert json.loads(payload)["asked"] == ["image", "volume"]


async def test_events_refuse_a_reversed_span(served: Served) -> None:
    status, _, payload = await served.ask("GET", "/events?since=10&until=1")
    assert (status, message(payload)) == (400, "`since` time (10) cannot be after `until` time (1)")


async def test_a_connection_serves_many_requests(served: Served) -> None:
    reader, writer = await served.raw("")
    for _ in range(3):
        writer.write(b"GET /_ping HTTP/1.1\r\nHost: d\r\n\r\n")
        status, _ = await read_head(reader)
        assert (status, await reader.readexactly(2)) == (200, b"OK")
    writer.close()


async def test_a_client_that_shuts_down_its_side_is_answered(served: Served) -> None:
    """`printf ... | nc -N`: the request is whole, its sender says no more."""
    reader, writer = await served.raw("GET /info HTTP/1.1\r\nHost: d\r\n\r\n")
    writer.write_eof()
    assert (await read_head(reader))[0] == 200
    assert b"fake" in await reader.read()
    writer.close()


async def test_garbage_is_a_400(served: Served) -> None:
    reader, writer = await served.raw("what is this\r\n\r\n")
    assert (await reader.read()).startswith(b"HTTP/1.1 400 ")
    writer.close()


async def test_stopping_the_server_cancels_what_would_not_end() -> None:
    engine = FakeEngine()
    async with serving(engine) as served:
        reader, writer = await served.raw("GET /events HTTP/1.1\r\nHost: d\r\n\r\n")
        await read_head(reader)
        await served.server.stop(0.05)
        assert engine.events.open == 0
        writer.close()
