"""kill -9 and foreign hands: whatever happened, start() makes records, kernel and living containers agree."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from daemon.network import namespaces
from daemon.network.undo import undo
from storage.errors import Forbidden
from tests.system import network_rig as rig
from tests.system.network_rig import Container, Daemon, ask, listening, sh, unreachable

DAEMON = """
import asyncio, sys
from pathlib import Path
from daemon.network.model import AttachRequest
from tests.system.network_rig import Daemon

async def main():
    daemon = Daemon(Path(sys.argv[1]))
    await daemon.start()
    await daemon.filled()
    {body}

asyncio.run(main())
"""


def crashing(root: Path, body: str) -> subprocess.Popen[str]:
    """A daemon in a process of its own; `body` prints a line when it is to be killed."""
    script = DAEMON.format(body=textwrap.indent(textwrap.dedent(body), "    ").strip())
    return subprocess.Popen([sys.executable, "-c", script, str(root)], stdout=subprocess.PIPE, text=True)


def kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()
    if process.stdout:
        process.stdout.close()


@pytest.fixture
async def crashed() -> AsyncIterator[Daemon]:
    """A daemon whose roots a killed predecessor uses first; whoever starts it stops it here."""
    root = Path(tempfile.mkdtemp(prefix="pyd-net-"))
    daemon = Daemon(root)
    try:
        yield daemon
        await daemon.stop()
        assert daemon.leftovers() == []
    finally:
        shutil.rmtree(root, ignore_errors=True)


async def test_living_containers_keep_their_network_and_the_rest_goes(crashed: Daemon) -> None:
    process = crashing(
        crashed.root,
        """
        await daemon.service.create({"Name": "n"})
        for cid, network in (("a" * 64, "bridge"), ("b" * 64, "bridge"), ("c" * 64, "n")):
            bindings = {"80/tcp": [{"HostPort": ""}]}
            await daemon.service.connect(cid, AttachRequest(network, cid[0], bindings=bindings))
        print(daemon.service.attachment("b" * 64).ports["80/tcp"][0]["HostPort"], flush=True)
        await asyncio.sleep(60)
        """,
    )
    assert process.stdout
    dead_port = int(process.stdout.readline())
    kill(process)
    before = {file.name for file in crashed.netns.iterdir()}
    assert len(before) >= 3 + 4, "three sandboxes and the pool's spares"

    service = await crashed.start("a" * 64, "c" * 64)
    kept = [Container(crashed, cid * 64) for cid in "ac"]
    assert {Path(one.netns).name for one in kept} <= before
    assert service.attachment("b" * 64) is None
    gone = before - {Path(one.netns).name for one in kept}
    assert not any((crashed.netns / name).exists() for name in gone)
    for one in kept:
        async with listening(one.netns, "0.0.0.0", 80):
            for host in ("127.0.0.1", "::1"):
                assert await ask(None, host, one.port())
    assert await unreachable(None, "127.0.0.1", dead_port)
    assert (await rig.ask_udp(kept[1].netns, "127.0.0.11", 53, QUERY_C))[3] & 15 == 0
    fresh = await crashed.container(name="fresh")
    assert fresh.address() != kept[0].address()


QUERY_C = b"\x00\x01\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x01c\x00\x00\x01\x00\x01"


@pytest.mark.parametrize("delay", [0.0, 0.013, 0.029, 0.041, 0.057])
async def test_killed_in_the_middle_of_anything(crashed: Daemon, delay: float) -> None:
    process = crashing(
        crashed.root,
        """
        print("go", flush=True)
        for turn in range(10000):
            network = await daemon.service.create({"Name": f"n{turn}"})
            cids = [f"{turn:032x}{number:032x}" for number in range(3)]
            bindings = {"80/tcp": [{"HostPort": ""}]}
            await asyncio.gather(*(
                daemon.service.connect(cid, AttachRequest(name, cid[-3:], bindings=bindings))
                for cid, name in zip(cids, ("bridge", f"n{turn}", "none"))
            ))
            await asyncio.gather(*(daemon.service.disconnect(cid) for cid in cids))
            await daemon.service.remove(network["Id"])
        """,
    )
    assert process.stdout
    process.stdout.readline()
    await asyncio.sleep(delay)
    kill(process)
    await crashed.start()
    assert list(crashed.records.load("sandboxes")) == []


async def test_bridge_and_table_that_someone_took_away_come_back(crashed: Daemon) -> None:
    process = crashing(
        crashed.root,
        """
        await daemon.service.connect("a" * 64, AttachRequest("bridge", "a", bindings={"80/tcp": [{"HostPort": ""}]}))
        print("ready", flush=True)
        await asyncio.sleep(60)
        """,
    )
    assert process.stdout
    process.stdout.readline()
    kill(process)
    sh("ip", "link", "delete", crashed.config.bridge)
    sh("nft", "delete", "table", "inet", crashed.config.firewall_table)
    await crashed.start("a" * 64)
    one = Container(crashed, "a" * 64)
    async with listening(one.netns, "0.0.0.0", 80):
        assert await ask(None, "127.0.0.1", one.port())


async def test_a_table_flushed_while_the_daemon_runs_comes_back(crashed: Daemon) -> None:
    await crashed.start()
    one = await crashed.container(bindings={"80/tcp": [{"HostPort": ""}]})
    sh("nft", "delete", "table", "inet", crashed.config.firewall_table)
    await asyncio.sleep(0.6)
    assert f"tcp . {one.port()} : {one.address()} . 80" in sh(
        "nft", "list", "map", "inet", crashed.config.firewall_table, "published"
    )


async def test_a_namespace_that_someone_holds_open_loses_its_network(crashed: Daemon) -> None:
    await crashed.start()
    one = await crashed.container()
    address, held = one.address(), os.open(one.netns, os.O_RDONLY)
    try:
        await one.stop()
        await crashed.service._worker.run(lambda: None)
        with namespaces.entered(held):
            assert address not in sh("ip", "-o", "address"), "nobody answers for a released address"
        await asyncio.sleep(2.3)
        with namespaces.entered(held):
            assert "eth0" not in sh("ip", "-o", "link")
    finally:
        os.close(held)


FOREIGN = {
    "no other firewall": "",
    "a policy of drop": """
        table ip filter {
          chain FORWARD { type filter hook forward priority filter; policy drop; }
        }
        """,
    "dockerd's chains": """
        table ip filter {
          chain DOCKER-USER { }
          chain DOCKER-FORWARD { iifname "docker0" counter accept; }
          chain FORWARD {
            type filter hook forward priority filter; policy drop;
            counter jump DOCKER-USER
            counter jump DOCKER-FORWARD
          }
        }
        """,
}

HERMETIC = """
import asyncio, os, subprocess, sys
from pathlib import Path
from tests.system import network_rig as rig
from tests.system.network_rig import ask, listening, sh

def load(rules):
    subprocess.run(["nft", "-f", "-"], input=rules, text=True, check=True)

async def main(before, after):
    sh("ip", "link", "set", "lo", "up")
    sh("sysctl", "-qw", "net.ipv4.ip_forward=1")
    load(before)
    with rig.outside() as outside:
        async with rig.daemon() as daemon:
            one = await daemon.container(bindings={"80/tcp": [{"HostPort": ""}]})
            two = await daemon.container(name="two")
            load(after)
            await asyncio.sleep(0.5 if after else 0)
            async with listening(outside.netns, outside.address, 8000), listening(one.netns, "0.0.0.0", 80):
                print(await ask(one.netns, outside.address, 8000) == outside.host)
                print(await ask(outside.netns, outside.host, one.port()) == outside.address)
                print(await ask(two.netns, one.address(), 80) == two.address())
                print(await ask(one.netns, outside.host, one.port()) != "")
                print(await ask(None, "127.0.0.1", one.port()) != "")
        print("accept comment" not in sh("nft", "list", "ruleset"))

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("what", list(FOREIGN))
async def test_beside_a_foreign_firewall(what: str, when: str) -> None:
    """In a host of its own (a network namespace), so that it holds whatever runs on this machine."""
    rules = [FOREIGN[what], ""] if when == "before" else ["", FOREIGN[what]]
    host = await asyncio.create_subprocess_exec(
        "unshare", "--net", sys.executable, "-c", HERMETIC, *rules, stdout=subprocess.PIPE
    )
    output, _ = await host.communicate()
    assert output.decode().split() == ["True"] * 6


async def test_undo_needs_no_records(crashed: Daemon) -> None:
    process = crashing(
        crashed.root,
        """
        await daemon.service.create({"Name": "n"})
        await daemon.service.connect("a" * 64, AttachRequest("n", "a"))
        print("ready", flush=True)
        await asyncio.sleep(60)
        """,
    )
    assert process.stdout
    process.stdout.readline()
    kill(process)
    assert crashed.leftovers()
    undo(crashed.config)
    await rig.until(lambda: crashed.leftovers() == [])
    await crashed.start()


async def test_a_start_that_fails_leaves_nothing(crashed: Daemon) -> None:
    """A default bridge that cannot be made: its name is an interface of another kind."""
    sh(
        "ip",
        "link",
        "add",
        crashed.config.bridge,
        "type",
        "veth",
        "peer",
        "name",
        f"{crashed.config.identity}x",
    )
    try:
        with pytest.raises(Forbidden, match="exists and is no bridge"):
            await crashed.start()
        await crashed.service.stop()
        crashed.records.close()
    finally:
        sh("ip", "link", "delete", crashed.config.bridge)
    await crashed.start()
