"""Networks as containers and their callers meet them: reach, published ports, modes, joining and leaving."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.system.holdings import unchanged
from tests.system.host import Host
from tests.system.images import free_port
from tests.system.network_rig import Outside, inside, outside

SERVER = "while :; do echo from-$(hostname) | nc -l -p 80; done"


@pytest.fixture(scope="module")
def beyond() -> Iterator[Outside]:
    with outside() as place:
        yield place


@pytest.fixture
def networks(host: Host) -> Iterator[list[str]]:
    """Two user-defined networks; gone after the test, whatever it did."""
    names = ["net-one", "net-two"]
    for name in names:
        host.docker("network", "create", name)
    yield names
    ids = host.docker("ps", "-aq").split()
    if ids:
        host.docker("rm", "-f", *ids)
    host.docker("network", "rm", *names)


def fetch(address: str, port: int, *, netns: object = None) -> str:
    """What a server says to a client in the namespace; it is asked again until it listens."""
    enter = ["nsenter", f"--net={netns}"] if netns else []
    command = [*enter, "busybox", "nc", "-w", "2", address, str(port)]
    end = time.monotonic() + 30
    while time.monotonic() < end:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        if done.stdout:
            return done.stdout.strip()
        time.sleep(0.05)
    raise AssertionError(f"nobody answers at {address}:{port}: {done.stderr}")


def serve(host: Host, name: str, *flags: str) -> None:
    host.docker("run", "-d", "--name", name, "--hostname", name, *flags, "busybox", "sh", "-c", SERVER)


def settings(host: Host, name: str) -> dict[str, dict[str, str]]:
    return json.loads(host.docker("inspect", "-f", "{{json .NetworkSettings.Networks}}", name))  # type: ignore[no-any-return]


def exec_(host: Host, name: str, *command: str) -> str:
    return host.docker("exec", name, *command)


def test_the_outside_is_reached_through_nat(host: Host, beyond: Outside) -> None:
    """The outside has no route to the bridge's subnet: an answer means the source was translated."""
    with inside(beyond.netns):
        server = socket.create_server(("0.0.0.0", 0))
    server.settimeout(60)

    def tell() -> None:
        with server.accept()[0] as client:
            client.sendall(f"you are {client.getpeername()[0]}".encode())

    with server, ThreadPoolExecutor() as threads:
        told = threads.submit(tell)
        heard = host.docker("run", "--rm", "busybox", "nc", beyond.address, str(server.getsockname()[1]))
        told.result()
    assert heard == f"you are {beyond.host}"
    assert "1 packets received" in host.docker("run", "--rm", "busybox", "ping", "-c1", "-W5", beyond.address)


def test_published_ports_from_here_and_from_elsewhere(host: Host, beyond: Outside) -> None:
    port, local = free_port(), free_port()
    serve(host, "web", "-p", f"{port}:80", "-p", f"127.0.0.1:{local}:80")
    assert fetch("127.0.0.1", port) == "from-web"
    assert fetch(beyond.host, port) == "from-web"
    assert fetch(beyond.host, port, netns=beyond.netns) == "from-web"
    assert fetch("127.0.0.1", local) == "from-web"
    assert sorted(host.docker("port", "web").splitlines()) == sorted(
        [f"80/tcp -> 0.0.0.0:{port}", f"80/tcp -> [::]:{port}", f"80/tcp -> 127.0.0.1:{local}"]
    )
    host.docker("kill", "web")
    with pytest.raises(OSError, match="refused"), socket.create_connection(("127.0.0.1", port), timeout=5):
        pass


def test_another_container_reaches_a_published_port_by_the_gateway(host: Host) -> None:
    port = free_port()
    serve(host, "web", "-p", f"{port}:80")
    gateway = settings(host, "web")["bridge"]["Gateway"]
    script = f"for i in $(seq 100); do nc -w 2 {gateway} {port} </dev/null && exit; sleep 0.05; done; exit 1"
    assert host.docker("run", "--rm", "busybox", "sh", "-c", script).strip() == "from-web"


def test_ranges_and_publish_all(host: Host) -> None:
    base = free_port() // 2 * 2
    host.docker("run", "-d", "--name", "range", "-p", f"{base}-{base + 1}:80-81", "busybox", "sleep", "60")
    ports = host.inspect("range")["NetworkSettings"]["Ports"]
    assert [ports[f"{n}/tcp"][0]["HostPort"] for n in (80, 81)] == [str(base), str(base + 1)]
    first = free_port()
    for name in ("one", "two"):  # one container port, the first free one of the host's range
        serve(host, name, "-p", f"127.0.0.1:{first}-{first + 20}:80")
    chosen = [int(host.docker("port", name, "80").rpartition(":")[2]) for name in ("one", "two")]
    assert len(set(chosen)) == 2 and all(first <= port <= first + 20 for port in chosen)
    assert [fetch("127.0.0.1", port) for port in chosen] == ["from-one", "from-two"]
    serve(host, "all", "-P", "--expose", "80", "--expose", "90/udp")
    ports = host.inspect("all")["NetworkSettings"]["Ports"]
    assert set(ports) == {"80/tcp", "90/udp"} and all(ports.values())
    assert fetch("127.0.0.1", int(ports["80/tcp"][0]["HostPort"])) == "from-all"


def test_a_port_in_use_is_refused_and_nothing_stays(host: Host) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, unchanged(host):
        port = taken.getsockname()[1]
        result = host.try_docker("run", "--name", "late", "-p", f"127.0.0.1:{port}:80", "busybox", "true")
        assert result.returncode == 125
        assert re.search(rb"failed to bind host port|address already in use", result.stderr), result.stderr
        assert host.docker("ps", "-a", "--format", "{{.Status}}") == "Created\n"
        host.docker("rm", "late")


def test_container_host_and_none_modes(host: Host) -> None:
    serve(host, "owner")
    shared = host.docker(
        "run", "--rm", "--network", "container:owner", "busybox", "sh", "-c", "hostname; cat /etc/hosts"
    )
    assert shared.startswith("owner\n")
    assert settings(host, "owner")["bridge"]["IPAddress"] in shared
    script = "for i in $(seq 100); do nc -w 2 127.0.0.1 80 </dev/null && exit; sleep 0.05; done; exit 1"
    joined = host.docker("run", "--rm", "--network", "container:owner", "busybox", "sh", "-c", script)
    assert joined == "from-owner\n"
    links = host.docker("run", "--rm", "--network", "none", "busybox", "ip", "-o", "link")
    assert "lo" in links and "eth" not in links
    own = host.docker(
        "run", "--rm", "--network", "host", "busybox", "sh", "-c", "hostname; ip -o link | wc -l"
    )
    assert own.split()[0] == socket.gethostname()
    refused = host.try_docker("run", "--rm", "--network", "container:owner", "-p", "80", "busybox")
    assert refused.returncode == 125
    host.docker("rm", "-f", "owner")
    gone = host.try_docker("run", "--rm", "--network", "container:owner", "busybox", "true")
    assert gone.returncode == 125 and b"No such container: owner" in gone.stderr


def test_names_in_a_user_defined_network(host: Host, networks: list[str]) -> None:
    serve(host, "web", "--network", "net-one", "--network-alias", "www")
    for name in ("web", "www"):
        command = ["run", "--rm", "--network", "net-one", "busybox", "ping", "-c1", "-W5", name]
        assert "1 packets received" in host.docker(*command)
    apart = host.try_docker("run", "--rm", "--network", "net-two", "busybox", "ping", "-c1", "-W1", "web")
    assert apart.returncode != 0
    address = settings(host, "web")["net-one"]["IPAddress"]
    apart = host.try_docker("run", "--rm", "--network", "net-two", "busybox", "ping", "-c1", "-W1", address)
    assert apart.returncode != 0


def test_a_running_container_joins_and_leaves(host: Host, networks: list[str]) -> None:
    serve(host, "web", "--network", "net-one")
    host.docker("run", "-d", "--name", "asker", "busybox", "sleep", "60")
    assert host.try_docker("exec", "asker", "ping", "-c1", "-W1", "web").returncode != 0
    with unchanged(host):
        exec_(host, "asker", "sh", "-c", "echo '10.9.8.7 mine' >> /etc/hosts")
        host.docker("network", "connect", "--alias", "again", "net-one", "asker")
        assert "1 packets received" in exec_(host, "asker", "ping", "-c1", "-W5", "web")
        shown = settings(host, "asker")
        assert set(shown) == {"bridge", "net-one"}
        assert "again" in shown["net-one"]["DNSNames"]
        address = shown["net-one"]["IPAddress"]
        assert address in exec_(host, "asker", "ip", "-4", "address")
        hosts = exec_(host, "asker", "cat", "/etc/hosts")
        assert address in hosts and "10.9.8.7 mine" in hosts
        assert "127.0.0.11" in exec_(host, "asker", "cat", "/etc/resolv.conf")
        members = json.loads(host.docker("network", "inspect", "-f", "{{json .Containers}}", "net-one"))
        assert sorted(member["Name"] for member in members.values()) == ["asker", "web"]

        host.docker("network", "disconnect", "net-one", "asker")
        assert set(settings(host, "asker")) == {"bridge"}
        assert address not in exec_(host, "asker", "ip", "-4", "address")
        hosts = exec_(host, "asker", "cat", "/etc/hosts")
        assert address not in hosts and "10.9.8.7 mine" in hosts
        assert "127.0.0.11" not in exec_(host, "asker", "cat", "/etc/resolv.conf")
        assert host.try_docker("exec", "asker", "ping", "-c1", "-W1", "web").returncode != 0


def test_ports_stay_published_while_networks_change(host: Host, networks: list[str], beyond: Outside) -> None:
    port = free_port()
    serve(host, "web", "-p", f"{port}:80", "--network", "net-two")
    host.docker("network", "connect", "net-one", "web")  # first by name: it gives the default route now
    assert fetch("127.0.0.1", port) == "from-web"
    assert fetch(beyond.host, port, netns=beyond.netns) == "from-web"
    host.docker("network", "disconnect", "net-two", "web")
    assert fetch("127.0.0.1", port) == "from-web"
    assert "1 packets received" in exec_(host, "web", "ping", "-c1", "-W5", beyond.address)
    host.docker("network", "disconnect", "net-one", "web")
    assert settings(host, "web") == {}
    assert exec_(host, "web", "ip", "-o", "link").count("\n") == 1
    host.docker("network", "connect", "bridge", "web")
    assert fetch("127.0.0.1", port) == "from-web"


def test_what_is_joined_and_left_outlives_restarts(host: Host, networks: list[str]) -> None:
    host.docker("create", "--name", "later", "busybox", "sleep", "60")
    host.docker("network", "connect", "net-one", "later")
    host.docker("network", "disconnect", "bridge", "later")
    assert set(settings(host, "later")) == {"net-one"}
    host.docker("start", "later")
    assert (
        exec_(host, "later", "ip", "-o", "-4", "address", "show", "eth0").split()[3].split("/")[0]
        == (settings(host, "later")["net-one"]["IPAddress"])
    )
    host.docker("network", "connect", "net-two", "later")
    host.docker("restart", "-t", "0", "later")
    assert set(settings(host, "later")) == {"net-one", "net-two"}
    assert all(each["IPAddress"] for each in settings(host, "later").values())


def test_joining_and_leaving_are_events(host: Host, networks: list[str]) -> None:
    host.docker("run", "-d", "--name", "moving", "busybox", "sleep", "60")
    start = host.docker("info", "-f", "{{.SystemTime}}").strip()
    host.docker("network", "connect", "net-one", "moving")
    host.docker("network", "disconnect", "net-one", "moving")
    end = host.docker("info", "-f", "{{.SystemTime}}").strip()
    window = ["--since", start, "--until", end, "--filter", "network=net-one"]
    told = host.docker("events", *window, "--format", "{{.Action}} {{.Actor.Attributes.container}}")
    identity = host.inspect("moving")["Id"]
    assert told.splitlines() == [f"connect {identity}", f"disconnect {identity}"]


@pytest.mark.parametrize(
    ("network", "verb", "container", "status", "message"),
    [
        (
            "net-one",
            "connect",
            "shared",
            400,
            "container sharing network namespace with another container or host",
        ),
        (
            "net-one",
            "connect",
            "hosted",
            400,
            "container sharing network namespace with another container or host",
        ),
        ("net-one", "connect", "alone", 400, "with one of the networks in private (none) mode"),
        ("net-one", "connect", "joined", 403, "endpoint with name joined already exists in network net-one"),
        ("host", "connect", "joined", 400, "container must be created in host network mode"),
        ("none", "connect", "joined", 400, "with one of the networks in private (none) mode"),
        ("nope", "connect", "joined", 404, "network nope not found"),
        ("net-one", "connect", "nobody", 404, "No such container: nobody"),
        ("net-one", "connect", "", 400, 'invalid name or ID supplied: ""'),
        ("net-two", "disconnect", "joined", 500, "is not connected to network net-two"),
        ("host", "disconnect", "hosted", 400, "container was created in host network mode"),
        ("nope", "disconnect", "joined", 404, "network nope not found"),
        ("net-two", "disconnect", "made", 500, "is not connected to the network net-two"),
        ("net-one", "disconnect", "nobody", 404, "No such container: nobody"),
    ],
)
def test_refusals_have_dockerds_status_and_text(
    refusing: Host, network: str, verb: str, container: str, status: int, message: str
) -> None:
    with unchanged(refusing):
        answer = refusing.curl("POST", f"/networks/{network}/{verb}", {"Container": container})
    assert answer[0] == status
    assert message in answer[1]["message"]


@pytest.fixture(scope="module")
def refusing(busybox_tar: object, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    made = Host(tmp_path_factory.mktemp("refusing"))
    made.start()
    try:
        made.docker("import", "--change", 'CMD ["sleep", "600"]', str(busybox_tar), "busybox:latest")
        for name in ("net-one", "net-two"):
            made.docker("network", "create", name)
        made.docker("run", "-d", "--name", "joined", "--network", "net-one", "busybox")
        made.docker("run", "-d", "--name", "shared", "--network", "container:joined", "busybox")
        made.docker("run", "-d", "--name", "hosted", "--network", "host", "busybox")
        made.docker("run", "-d", "--name", "alone", "--network", "none", "busybox")
        made.docker("create", "--name", "made", "busybox")
        yield made
    finally:
        made.undo()


def test_networks_survive_a_restart_of_the_daemon(own_host: Host) -> None:
    port = free_port()
    own_host.docker("network", "create", "kept")
    serve(own_host, "web", "-p", f"{port}:80", "--network", "kept")
    own_host.docker("run", "-d", "--name", "asker", "busybox", "sleep", "60")
    own_host.docker("network", "connect", "kept", "asker")
    own_host.kill()
    own_host.start()
    assert fetch("127.0.0.1", port) == "from-web"
    assert "1 packets received" in exec_(own_host, "asker", "ping", "-c1", "-W5", "web")
    own_host.docker("network", "disconnect", "kept", "asker")
    assert set(settings(own_host, "asker")) == {"bridge"}
    refused = own_host.try_docker("network", "rm", "kept")
    assert refused.returncode == 1 and b"has active endpoints" in refused.stderr
