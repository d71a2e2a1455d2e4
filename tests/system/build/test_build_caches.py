"""Caches of other machines: taken from images, written to registries and directories, wrong ones."""

from __future__ import annotations

import os

from tests.system.build.conftest import Builder


def forget(builder: Builder) -> None:
    status, _ = builder.host.curl("POST", "/build/prune?all=1")
    assert status == 200


def test_local_images_are_caches_for_the_classic_door(builder: Builder) -> None:
    """What was pulled, say: the history reads the same, the layers are the same."""
    name = os.urandom(4).hex()
    files = {
        "Dockerfile": f"FROM busybox\nENV n={name}\nCOPY f /f\nRUN cat /proc/sys/kernel/random/uuid > /t\n"
        "RUN cat /t /f > /u\nCOPY g /g\n",
        "f": name,
        "g": "1",
    }
    context = builder.context(files)
    builder.build(context, "-t", "cachefrom:1")
    forget(builder)
    (context / "g").write_text("2")
    said = builder.build(context, "-t", "cachefrom:2", "--cache-from", "no/such/image,cachefrom:1")
    assert said.count("Using cache") >= 2 and said.count("Running in") == 0, said
    assert builder.run("cachefrom:1", "cat", "/t", "/u") == builder.run("cachefrom:2", "cat", "/t", "/u")
    forget(builder)
    (context / "f").write_text("another")
    said = builder.build(context, "-t", "cachefrom:3", "--cache-from", "cachefrom:1")
    assert said.count("Running in") == 2, "the layers below are others"
    forget(builder)
    (context / "f").write_text(name)
    said = builder.build(context, "-t", "cachefrom:4")
    assert said.count("Running in") == 2, "nobody asked for it"


def test_an_inline_cache_knows_copies_and_stages(builder: Builder) -> None:
    name = os.urandom(4).hex()
    files = {
        "Dockerfile": f"FROM busybox AS one\nCOPY f /f\nRUN cat /proc/sys/kernel/random/uuid > /t; echo {name}\n"
        "FROM busybox\nCOPY --from=one /t /t\nRUN cat /proc/sys/kernel/random/uuid > /u\n",
        "f": name,
    }
    builder.build(files, "-t", "inline:1", "--build-arg", "BUILDKIT_INLINE_CACHE=1")
    forget(builder)
    said = builder.build(
        files, "-t", "inline:2", "--cache-from", "inline:1", "--build-arg", "BUILDKIT_INLINE_CACHE=1"
    )
    assert said.count("Using cache") >= 4 and said.count("Running in") == 0, said
    assert builder.host.inspect("inline:1")["Id"] == builder.host.inspect("inline:2")["Id"]
    forget(builder)
    changed = {**files, "Dockerfile": files["Dockerfile"] + "COPY --from=one /f /g\n"}
    builder.build(
        changed, "-t", "inline:3", "--cache-from", "inline:1"
    )  # its first stage's layers are in no image
    assert builder.run("inline:3", "cat", "/g") == name
