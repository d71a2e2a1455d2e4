"""`docker stats` beside what a container is known to use: processor, memory, network, disk, processes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from typing import Any

from tests.system.host import ENVIRONMENT, Host

_UNITS = {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


def size(text: str) -> float:
    match = re.fullmatch(r"([0-9.]+)([A-Za-z]+)", text.strip())
    assert match, text
    return float(match[1]) * _UNITS[match[2]]


def shown(host: Host, name: str) -> dict[str, Any]:
    return json.loads(host.docker("stats", "--no-stream", "--format", "{{json .}}", name))  # type: ignore[no-any-return]


def pair(text: str) -> tuple[float, float]:
    first, second = text.split(" / ")
    return size(first), size(second)


def test_processor_time_of_a_busy_and_an_idle_container(host: Host) -> None:
    host.docker("run", "-d", "--name", "busy", "--cpus", "0.3", "busybox", "sh", "-c", "while :; do :; done")
    host.docker("run", "-d", "--name", "idle", "busybox", "sleep", "1000")
    time.sleep(0.5)
    assert 15 < float(shown(host, "busy")["CPUPerc"].rstrip("%")) < 40
    assert float(shown(host, "idle")["CPUPerc"].rstrip("%")) < 2
    raw = host.curl("GET", "/containers/busy/stats?stream=false")[1]
    usage = raw["cpu_stats"]["cpu_usage"]["total_usage"]
    assert usage > raw["precpu_stats"]["cpu_usage"]["total_usage"] > 0
    assert raw["cpu_stats"]["throttling_data"]["throttled_periods"] > 0
    assert raw["cpu_stats"]["online_cpus"] == os.cpu_count()


def test_memory_is_what_processes_hold_without_the_cache(host: Host) -> None:
    script = "head -c 60000000 /dev/zero > /file; cat /file > /dev/null; head -c 20000000 /dev/zero > /dev/shm/held"
    host.docker(
        "run", "-d", "--name", "c1", "--memory", "300m", "busybox", "sh", "-c", f"{script}; sleep 1000"
    )
    time.sleep(1)
    used, limit = pair(shown(host, "c1")["MemUsage"])
    assert limit == 300 * 2**20
    assert 19e6 < used < 45e6  # the tmpfs, not the 60 MB of file cache
    raw = host.curl("GET", "/containers/c1/stats?stream=false&one-shot=true")[1]["memory_stats"]
    assert raw["usage"] > 75e6 and raw["limit"] == limit
    inactive = raw["stats"].get("total_inactive_file", raw["stats"].get("inactive_file"))
    assert inactive > 30e6
    assert abs(float(shown(host, "c1")["MemPerc"].rstrip("%")) - 100 * used / limit) < 3


def test_network_counts_what_was_sent(host: Host) -> None:
    script = "head -c 5000000 /dev/zero > /file; exec httpd -f -p 80 -h /"
    host.docker("run", "-d", "--name", "server", "busybox", "sh", "-c", script)
    address = host.inspect("server")["NetworkSettings"]["Networks"]["bridge"]["IPAddress"]
    command = f"until wget -q -O /got http://{address}/file; do sleep 0.1; done; sleep 1000"
    host.docker("run", "-d", "--name", "client", "busybox", "sh", "-c", command)
    time.sleep(1.5)
    received, sent = pair(shown(host, "client")["NetIO"])
    assert 5e6 <= received < 6e6 and sent < 1e6
    assert "networks" in host.curl("GET", "/containers/client/stats?stream=false&one-shot=true")[1]
    host.docker("run", "-d", "--name", "hostnet", "--network", "host", "busybox", "sleep", "1000")
    assert "networks" not in host.curl("GET", "/containers/hostnet/stats?stream=false&one-shot=true")[1]


def test_disk_and_processes(host: Host) -> None:
    script = (
        "dd if=/dev/zero of=/data/file bs=1M count=8 oflag=direct 2>/dev/null; sleep 1001 & sleep 1002 & wait"
    )
    host.docker(
        "run", "-d", "--name", "c1", "--pids-limit", "50", "-v", "/data", "busybox", "sh", "-c", script
    )
    time.sleep(1.5)
    row = shown(host, "c1")
    assert 8e6 <= pair(row["BlockIO"])[1] < 12e6
    assert int(row["PIDs"]) == 3
    raw = host.curl("GET", "/containers/c1/stats?stream=false&one-shot=true")[1]
    assert raw["pids_stats"] == {"current": 3, "limit": 50}


def test_a_stopped_container_shows_zeros(host: Host) -> None:
    host.docker("create", "--name", "c1", "busybox", "true")
    raw = host.curl("GET", "/containers/c1/stats?stream=false")[1]
    assert raw["memory_stats"] == {} and raw["cpu_stats"]["cpu_usage"]["total_usage"] == 0
    assert host.curl("GET", "/containers/none/stats?stream=false")[0] == 404


def test_a_hundred_streams_cost_one_sampler(host: Host) -> None:
    host.docker("run", "-d", "--name", "c1", "busybox", "sleep", "1000")
    before = processor_seconds(host)
    url = "http://pyd/containers/c1/stats"
    clients = [
        subprocess.Popen(
            ["curl", "-sN", "--unix-socket", str(host.socket), url],
            stdout=subprocess.PIPE,
            env=ENVIRONMENT,
        )
        for _ in range(100)
    ]
    try:
        time.sleep(3.2)
        first = [_line(client) for client in clients]
        second = [_line(client) for client in clients]
        stamps = {json.loads(line)["read"] for line in first + second}
        assert len(stamps) <= 5, stamps  # two readings, or some more for who connected early
        assert processor_seconds(host) - before < 3
    finally:
        for client in clients:
            client.kill()
            client.wait()


def _line(client: subprocess.Popen[bytes]) -> bytes:
    assert client.stdout
    return client.stdout.readline()


def processor_seconds(host: Host) -> float:
    assert host.process
    with open(f"/proc/{host.process.pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
