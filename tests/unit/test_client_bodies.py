"""The same flags make the same request body as docker's: the docker command line is the judge.

A tiny server on a unix socket records what either client sends; nothing else of a daemon is needed.
"""

from __future__ import annotations

import json
import os
import shutil
import socketserver
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from client import main as client_main

pytestmark = pytest.mark.skipif(
    shutil.which("docker") is None, reason="docker's command line is not installed"
)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Recorder

    def address_string(self) -> str:
        return "unix"

    def log_message(self, *arguments: object) -> None:
        pass

    def _answer(self, status: int, document: object) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Api-Version", "1.51")
        self.send_header("Ostype", "linux")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_HEAD(self) -> None:
        self._answer(200, {})

    def do_GET(self) -> None:
        self._answer(200, {})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = "/" + self.path.split("/", 2)[2] if self.path.startswith("/v1.") else self.path
        self.server.seen.append((path, json.loads(body) if body else None))
        self._answer(201, {"Id": "0123456789ab", "Name": "v", "Warnings": []})


class _Recorder(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    seen: list[tuple[str, Any]]


@pytest.fixture(scope="module")
def recorder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[_Recorder]:
    path = tmp_path_factory.mktemp("client") / "s.sock"
    server = _Recorder(str(path), _Handler)
    server.seen = []
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("files")
    (directory / "env").write_text("# comment\nA=1\n\n  B=two words  \nHOME\nNOT_THERE_AT_ALL\n")
    (directory / "labels").write_text("one=1\ntwo\n")
    (directory / "seccomp.json").write_text('{\n  "defaultAction": "SCMP_ACT_ALLOW",\n  "syscalls": []\n}\n')
    return directory


CREATE = """
busybox
busybox echo -n --flag hello
-i busybox
-t busybox cat
-it --name x -h host --domainname example.org busybox sh -c true
-a stdout busybox
-a STDIN -a stderr busybox
-e A=b -e HOME -e NOT_THERE_AT_ALL -e C= busybox
--env-file {files}/env -e A=2 busybox
-l a=b --label c --label-file {files}/labels busybox
-w /tmp -u 1000:1000 busybox
--entrypoint /bin/sh busybox -c true
--entrypoint= busybox
-p 80 busybox
-p 8080:80 -p 127.0.0.1:81:81/udp busybox
-p 8000-8002:80-82 busybox
-p 8000-8005:80 busybox
-p [::1]:80:80 -p [::]:443:443/sctp busybox
-p published=8080,target=80,protocol=udp busybox
-p=80:80 busybox
-p 127.0.0.1::80 busybox
--expose 80 --expose 90-92/udp -P busybox
-v /data busybox
-v /a:/b -v name:/c:ro -v ./rel:/d:z busybox
-v /a:/b:ro,rshared --volume-driver local --volumes-from other:ro busybox
--mount type=bind,src=/tmp,dst=/x,ro busybox
--mount type=bind,source=.,target=/x,bind-propagation=rslave busybox
--mount type=bind,src=/a,dst=/b,readonly,bind-recursive=writable busybox
--mount type=bind,src=/a,dst=/b,bind-recursive=disabled busybox
--mount type=bind,src=/a,dst=/b,bind-recursive=enabled busybox
--mount type=volume,src=v,dst=/d,volume-driver=l,volume-opt=a=b,volume-label=q=r,volume-nocopy busybox
--mount src=v,dst=/d,volume-subpath=s busybox
--mount dst=/d,readonly=false busybox
--mount type=tmpfs,dst=/t,tmpfs-size=1m,tmpfs-mode=1777 busybox
--mount type=image,src=i,dst=/i,image-subpath=s busybox
--mount "type=volume,dst=/d,\\"volume-opt=o=a,b\\"" busybox
--tmpfs /run --tmpfs /tmp:size=1m,mode=1777 busybox
--read-only --privileged --init busybox
--init=false busybox
--memory 512m --memory-swap 1g --memory-reservation 256M --memory-swappiness 10 busybox
-m 1.5GiB --memory-swap -1 --shm-size 64k busybox
--kernel-memory 10m busybox
--cpus 1.5 --cpuset-cpus 0-1 --cpuset-mems 0 busybox
--cpus .25 -c 512 --cpu-period 100000 --cpu-quota 50000 busybox
--cpu-rt-period 1000000 --cpu-rt-runtime 950000 busybox
--blkio-weight 300 --blkio-weight-device /dev/sda:200 busybox
--device-read-bps /dev/sda:1mb --device-write-bps /dev/sda:1048576 busybox
--device-read-iops /dev/sda:100 --device-write-iops /dev/sda:200 busybox
--pids-limit 100 --oom-kill-disable --oom-score-adj -500 busybox
--device /dev/null busybox
--device /dev/null:/dev/zero:r --device /dev/tty:rw --device /dev/a:/dev/b busybox
--device vendor.com/class=name --device /dev/null busybox
--device-cgroup-rule "c 1:3 rwm" busybox
--gpus all busybox
--gpus 2 busybox
--gpus "\\"device=0,1\\",capabilities=utility" busybox
--gpus count=1,driver=nvidia,options=a=b busybox
--ulimit nofile=1024:2048 --ulimit core=0 --ulimit nproc=-1:-1 busybox
--cap-add NET_ADMIN --cap-drop ALL --group-add video --group-add 44 busybox
--security-opt seccomp=unconfined --security-opt no-new-privileges --security-opt apparmor=x busybox
--security-opt seccomp={files}/seccomp.json busybox
--security-opt systempaths=unconfined --security-opt label=disable busybox
--security-opt systempaths=unconfined busybox
--network none busybox
--network host busybox
--network container:other busybox
--network bridge --mac-address 92:d0:c6:0a:29:33 busybox
--network net1 --network-alias a --network-alias b --ip 172.30.100.104 --ip6 2001:db8::33 busybox
--net net1 --link db:database --link-local-ip 169.254.1.1 busybox
--network name=net1,alias=a,ip=1.2.3.4,driver-opt=k=v,gw-priority=5 --network net2 busybox
--mac-address 92:d0:c6:0a:29:33 busybox
--link db busybox
--add-host a:1.2.3.4 --add-host b=::1 --add-host c:[::1] --add-host gw:host-gateway busybox
--dns 8.8.8.8 --dns ::1 --dns-search example.com --dns-search . --dns-option ndots:2 --dns-opt rotate busybox
--pid host --ipc host --uts host --userns host --cgroupns host busybox
--pid container:a --ipc container:b --cgroupns private busybox
--cgroup-parent /x --runtime runc --isolation default busybox
--restart always busybox
--restart on-failure:3 busybox
--restart unless-stopped busybox
--rm busybox
--rm --restart no busybox
--restart= busybox
--log-driver json-file --log-opt max-size=10m --log-opt max-file=3 busybox
--log-driver none busybox
--stop-signal SIGUSR1 --stop-timeout 3 busybox
--stop-timeout 0 busybox
--health-cmd "curl -f x" --health-interval 5s --health-timeout 1m --health-retries 3 busybox
--health-start-period 1h0m5s --health-start-interval 500ms busybox
--no-healthcheck busybox
--sysctl net.ipv4.ip_forward=1 --sysctl kernel.shmmax=5 busybox
--storage-opt size=10G --annotation a=b busybox
--cidfile {files}/cid-{who} busybox
"""

REFUSED = """
-p 99999:80 busybox
-p x:80 busybox
-p 80-70:80 busybox
-p 80:80/foo busybox
-p 300.1.1.1:80:80 busybox
-p 1-2:80-85 busybox
--expose x busybox
--mount type=bind,src=/a busybox
--mount foo=bar busybox
--mount type=tmpfs,dst=/t,tmpfs-size=x busybox
--mount type=bind,dst=/t,volume-nocopy busybox
-m 3x busybox
-m abc busybox
--cpus x busybox
--cpus 0.1234567891 busybox
--ulimit foo=1 busybox
--ulimit nofile=10:5 busybox
--ulimit nofile busybox
--device a:b:c:d busybox
--device /dev/null:/dev/zero:q busybox
--device-cgroup-rule x busybox
--device-read-bps sda:1 busybox
--device-read-iops /dev/sda:1mb busybox
--blkio-weight-device /dev/sda:5 busybox
--gpus foo=bar busybox
--gpus x busybox
--network a --network a busybox
--network a --network bridge busybox
--network host --network-alias x busybox
--mac-address zz busybox
--add-host x busybox
--add-host x:y busybox
--dns x busybox
--link a:b:c busybox
--pid x busybox
--uts x busybox
--userns x busybox
--cgroupns x busybox
--restart :1 busybox
--restart on-failure:x busybox
--rm --restart always busybox
--log-driver none --log-opt a=b busybox
--health-cmd x --no-healthcheck busybox
--health-retries=-1 busybox
--health-interval 5 busybox
--health-interval 5x busybox
--health-interval x busybox
--security-opt x busybox
--security-opt seccomp=/not/there busybox
--storage-opt x busybox
--sysctl a=b busybox
--memory-swappiness 101 busybox
-e =x busybox
-l =x busybox
--env-file /not/there busybox
-a foo busybox
--pull x busybox
--rm=maybe busybox
--blkio-weight 70000 busybox
--cpu-shares x busybox
-v :/x busybox
-v aa:bb:cc:dd busybox
--unknown busybox
-zx busybox
--name
busyBox
"""


def _split(line: str, files: Path, who: str) -> list[str]:
    import shlex

    return [word.replace("{files}", str(files)).replace("{who}", who) for word in shlex.split(line)]


def _lines(text: str) -> list[str]:
    return text.strip().splitlines()


def _docker(recorder: _Recorder, words: list[str]) -> tuple[Any, subprocess.CompletedProcess[str]]:
    recorder.seen.clear()
    environment = {**os.environ, "DOCKER_HOST": f"unix://{recorder.server_address!s}"}
    done = subprocess.run(["docker", *words], capture_output=True, text=True, env=environment, check=False)
    return (recorder.seen[-1] if recorder.seen else None), done


def _pyd(recorder: _Recorder, words: list[str]) -> tuple[Any, int]:
    recorder.seen.clear()
    code = client_main.main(["-H", f"unix://{recorder.server_address!s}", *words])
    return (recorder.seen[-1] if recorder.seen else None), code


def _without_file(seen: Any) -> Any:
    if seen and seen[1] and "HostConfig" in seen[1]:
        host = seen[1]["HostConfig"]
        host["Binds"] = sorted(host["Binds"] or [])  # docker walks a map, so its order is chance
        if seen[1].get("Env"):
            seen[1]["Env"] = sorted(seen[1]["Env"])  # likewise
        seen[1]["HostConfig"]["ContainerIDFile"] = bool(seen[1]["HostConfig"]["ContainerIDFile"])
    return seen


@pytest.mark.parametrize("line", _lines(CREATE))
def test_create_sends_what_docker_sends(line: str, recorder: _Recorder, files: Path) -> None:
    theirs, done = _docker(recorder, ["create", *_split(line, files, "docker")])
    assert theirs is not None, done.stderr
    ours, code = _pyd(recorder, ["create", *_split(line, files, "pyd")])
    assert code == 0
    assert _without_file(ours) == _without_file(theirs)


@pytest.mark.parametrize("line", _lines(REFUSED))
def test_create_refuses_what_docker_refuses(
    line: str, recorder: _Recorder, files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs, done = _docker(recorder, ["create", *_split(line, files, "docker")])
    assert theirs is None
    ours, code = _pyd(recorder, ["create", *_split(line, files, "pyd")])
    assert ours is None
    assert code == done.returncode
    # 28.2 says "invalid hostPort", 28.5 "Invalid hostPort"
    assert capsys.readouterr().err.lower() == done.stderr.replace("docker", "pyd").lower()


OTHERS = """
update --memory 1g --cpus 2 x
update --restart always --pids-limit 5 x
update --blkio-weight 10 --cpuset-cpus 0 --memory-swap -1 x
network create --driver bridge --subnet 10.1.0.0/16 --gateway 10.1.0.1 --ip-range 10.1.1.0/24 -o a=b --label c=d n
network create --ipv6 --internal --attachable --aux-address x=10.1.0.9 --subnet 10.1.0.0/16 n
network create --config-only n
network connect --alias a --ip 1.2.3.4 --link x:y --driver-opt k=v --gw-priority 1 n c
network connect n c
network disconnect -f n c
volume create v
volume create -d local -o type=tmpfs --label a=b v
volume create
rename a b
kill -s HUP x
stop -t 5 x
stop --signal INT --timeout 3 x
restart x
pause x
tag a b:c
tag a host:5000/b/c
commit -a me -m message -c "CMD [\\"x\\"]" -p=false c r:t
commit c
"""


@pytest.mark.parametrize("line", _lines(OTHERS))
def test_other_commands_send_what_docker_sends(line: str, recorder: _Recorder, files: Path) -> None:
    theirs, done = _docker(recorder, _split(line, files, "docker"))
    assert theirs is not None, done.stderr
    ours, code = _pyd(recorder, _split(line, files, "pyd"))
    assert code == 0
    assert _query(ours) == _query(theirs)


def _query(seen: tuple[str, Any]) -> Any:
    from urllib.parse import parse_qs

    path, _, query = seen[0].partition("?")
    return path, parse_qs(query), seen[1]
