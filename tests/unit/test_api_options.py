"""pydd's flags, its configuration file, its sockets, and systemd's protocols."""

from __future__ import annotations

import grp
import json
import os
import shlex
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from api import listeners, options, serve, systemd
from daemon.config import DaemonConfig
from storage.errors import Conflict, InvalidArgument

pytestmark = pytest.mark.timeout(30)


def parse(*arguments: str, file: dict[str, object] | None = None, tmp: Path) -> options.Settings:
    path = tmp / "daemon.json"
    path.write_text(json.dumps(file or {}))
    return options.parse(["--config-file", str(path), *arguments])


def test_a_harness_that_starts_dockerd_starts_pydd(tmp_path: Path) -> None:
    flags = """
        -H unix:///tmp/a.sock -H tcp://127.0.0.1:0 --data-root /tmp/a --exec-root /tmp/b -p /tmp/c -D
        -l warn --live-restore --iptables=false --storage-driver overlay2 --experimental
        --userland-proxy=false --insecure-registry 127.0.0.1:5000 --registry-mirror http://m
        --default-address-pool base=10.0.0.0/8,size=24 --add-runtime crun=/usr/bin/crun
        --default-ulimit nofile=64:128 --default-shm-size 128m --log-opt max-size=1m --group root
    """
    settings = parse(
        *shlex.split(flags),
        tmp=tmp_path,
    )
    config = settings.config
    assert config.hosts == ("unix:///tmp/a.sock", "tcp://127.0.0.1:0")
    assert (config.data_root, config.exec_root, config.pidfile) == (
        Path("/tmp/a"),
        Path("/tmp/b"),
        Path("/tmp/c"),
    )
    assert (config.debug, config.log_level, config.userland_proxy) == (True, "warn", False)
    assert config.default_address_pools == (("10.0.0.0/8", 24),)
    assert config.runtimes == {"crun": "/usr/bin/crun"}
    assert config.default_ulimits == {"nofile": (64, 128)}
    assert (config.default_shm_size, config.log_opts) == (128 << 20, {"max-size": "1m"})
    assert settings.group == "root"


def test_the_file_is_dockerds(tmp_path: Path) -> None:
    settings = parse(
        file={
            "hosts": ["unix:///x"],
            "data-root": "/tmp/a",
            "runtimes": {"crun": {"path": "/usr/bin/crun"}},
            "default-ulimits": {"nofile": {"Name": "nofile", "Hard": 9, "Soft": 8}},
            "default-address-pools": [{"base": "10.0.0.0/8", "size": 24}],
            "log-opts": {"max-size": "1m"},
            "debug": True,
            "live-restore": True,
        },
        tmp=tmp_path,
    )
    assert settings.config.hosts == ("unix:///x",)
    assert settings.config.runtimes == {"crun": "/usr/bin/crun"}
    assert settings.config.default_ulimits == {"nofile": (8, 9)}
    assert settings.config.default_address_pools == (("10.0.0.0/8", 24),)
    assert settings.config.debug is True


def test_defaults_need_no_file(tmp_path: Path) -> None:
    assert options.build({}, tmp_path / "none", required=False) == DaemonConfig()
    with pytest.raises(InvalidArgument, match="no such file"):
        options.build({}, tmp_path / "none", required=True)


def test_a_flag_and_the_file_may_not_both_say_it(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument) as refused:
        parse("--debug", "-H", "unix:///a", file={"debug": False, "hosts": ["unix:///b"]}, tmp=tmp_path)
    assert str(refused.value) == (
        "the following directives are specified both as a flag and in the configuration file: "
        "debug: (from flag: True, from file: False), "
        "host: (from flag: [unix:///a], from file: [unix:///b])"
    )


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ({"nonsense": 1}, "don't match any configuration option: nonsense"),
        ({"hosts": "unix:///a"}, "hosts: must be a list of strings"),
        ({"debug": "perhaps"}, "debug: must be true or false"),
        ({"log-level": "loud"}, "log-level: must be one of debug"),
        ({"shutdown-timeout": "x"}, "invalid value 'x' for .*shutdown-timeout"),
        ({"runtimes": {"a": {}}}, "runtimes"),
        ({"max-concurrent-downloads": 0}, "invalid max concurrent downloads: 0"),
        ({"tls": True}, "TLS needs --tlscert and --tlskey"),
        ({"data-root": "/x", "exec-root": "/x"}, "same directory: /x"),
    ],
)
def test_what_the_file_may_not_say(tmp_path: Path, file: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        parse(file=file, tmp=tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", '"x"'])
def test_a_file_that_is_no_json_object(tmp_path: Path, text: str) -> None:
    path = tmp_path / "daemon.json"
    path.write_text(text)
    with pytest.raises(InvalidArgument, match="unable to configure the daemon with file"):
        options.read_file(path, required=True)


def test_reload_changes_only_what_may_change(tmp_path: Path) -> None:
    settings = parse("--data-root", "/tmp/a", file={"debug": False, "labels": ["a=1"]}, tmp=tmp_path)
    settings.config_file.write_text(json.dumps({"debug": True, "labels": ["b=2"], "bip": "10.9.0.1/24"}))
    fresh = options.reloaded(settings, settings.config)
    assert (fresh.debug, fresh.labels) == (True, ("b=2",))
    assert (fresh.bip, fresh.data_root) == (None, Path("/tmp/a"))
    settings.config_file.write_text("{")
    with pytest.raises(InvalidArgument):
        options.reloaded(settings, fresh)


def test_the_unix_socket_is_for_root_and_its_group(tmp_path: Path) -> None:
    path = tmp_path / "run" / "d.sock"
    listener = listeners.open_unix(path, grp.getgrgid(1).gr_name)
    mode = path.stat()
    assert (stat.S_IMODE(mode.st_mode), mode.st_gid) == (0o660, 1)
    with pytest.raises(InvalidArgument, match="another process listens"):
        listeners.open_unix(path, None)
    listener.close()
    assert not path.exists()


def test_a_dead_daemons_socket_is_replaced_a_file_is_not(tmp_path: Path) -> None:
    path = tmp_path / "d.sock"
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(path))
    dead.close()
    listeners.open_unix(path, None).close()
    path.write_text("mine")
    with pytest.raises(InvalidArgument, match="a file that is no socket"):
        listeners.open_unix(path, None)
    assert path.read_text() == "mine"


@pytest.mark.parametrize("host", ["http://x", "nonsense", "npipe:////x", ""])
def test_unknown_protocols_are_refused(host: str) -> None:
    with pytest.raises(InvalidArgument, match="invalid bind address"):
        listeners.open_listeners((host,), tls=False)


def test_an_unknown_group_is_refused_and_nothing_left(tmp_path: Path) -> None:
    hosts = (f"unix://{tmp_path}/a.sock", f"unix://{tmp_path}/b.sock", "nonsense://")
    with pytest.raises(InvalidArgument):
        listeners.open_listeners(hosts, tls=False)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(InvalidArgument, match="group no-such-group not found"):
        listeners.open_unix(tmp_path / "c.sock", "no-such-group")


def test_tcp_listens_on_every_address() -> None:
    opened = listeners.open_listeners(("tcp://127.0.0.1:0",), tls=False)
    address = opened[0].socket.getsockname()
    with socket.create_connection(address[:2]):
        pass
    for listener in opened:
        listener.close()


SHOW_SOCKETS = """
import os
os.environ["LISTEN_PID"] = str(os.getpid())
from api import listeners
opened = listeners.open_listeners(("fd://web", "fd://4"), tls=True)
print([(l.address, l.secure, l.socket.getsockname(), l.socket.get_inheritable()) for l in opened])
print("LISTEN_FDS" in os.environ)
try:
    listeners.open_listeners(("fd://",), tls=False)
except Exception as error:
    print(error)
"""


def test_sockets_of_systemd(tmp_path: Path) -> None:
    """The activation protocol for real: descriptors from 3 on, named, in the environment of one process."""
    first, second = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
    for index, listening in enumerate((first, second)):
        listening.bind(str(tmp_path / str(index)))
        listening.listen()

    def place() -> None:
        os.dup2(first.fileno(), 103)
        os.dup2(second.fileno(), 104)
        os.dup2(103, 3)
        os.dup2(104, 4)

    environment = {"LISTEN_FDS": "2", "LISTEN_FDNAMES": "web:admin", "PATH": os.environ["PATH"]}
    shown = subprocess.run(
        [sys.executable, "-c", SHOW_SOCKETS],
        env=environment,
        preexec_fn=place,
        close_fds=False,
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    ).stdout.splitlines()
    assert shown == [
        f"[('fd://web', False, '{tmp_path}/0', False), ('fd://admin', False, '{tmp_path}/1', False)]",
        "False",
        "no sockets found via socket activation for fd://: make sure the service was started by systemd",
    ]
    first.close()
    second.close()


@pytest.mark.parametrize("abstract", [False, True])
def test_notifications_arrive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, abstract: bool) -> None:
    name = f"pyd-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("\0" + name if abstract else name)
        monkeypatch.setenv("NOTIFY_SOCKET", "@" + name if abstract else name)
        assert systemd.notify("READY=1")
        assert manager.recv(100) == b"READY=1"
        assert systemd.reloading()
        assert manager.recv(100).startswith(b"RELOADING=1\nMONOTONIC_USEC=")


def test_no_manager_no_notification(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert systemd.notify("READY=1") is False
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    assert systemd.notify("READY=1") is False


def test_the_watchdog_is_patted_twice_as_often_as_it_bites(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WATCHDOG_USEC", raising=False)
    assert systemd.watchdog_interval() is None
    monkeypatch.setenv("WATCHDOG_USEC", "3000000")
    assert systemd.watchdog_interval() == 1.5
    monkeypatch.setenv("WATCHDOG_PID", "1")
    assert systemd.watchdog_interval() is None


def test_one_daemon_per_root(tmp_path: Path) -> None:
    lock = serve.Lock(tmp_path / "data", tmp_path / "exec")
    with pytest.raises(Conflict, match="another pydd uses"):
        serve.Lock(tmp_path / "other", tmp_path / "exec")
    lock.release()
    serve.Lock(tmp_path / "data", tmp_path / "exec").release()


def test_the_pidfile_of_a_living_process_is_respected(tmp_path: Path) -> None:
    path = tmp_path / "run" / "pid"
    pidfile = serve.PidFile(path)
    assert path.read_text() == str(os.getpid())
    pidfile.remove()
    path.write_text("1")
    with pytest.raises(Conflict, match="process with PID 1 is still running"):
        serve.PidFile(path)
    path.write_text("4194304999")
    serve.PidFile(path).remove()
    assert not path.exists()


def test_errors_at_the_start_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert serve.main(["--config-file", str(tmp_path / "none")]) == 1
    assert capsys.readouterr().err == (
        f"pydd: unable to configure the daemon with file {tmp_path}/none: no such file\n"
    )
    assert serve.main(["--version"]) == 0
    assert serve.main(["--validate", "--log-level", "debug"]) == 0
