"""The client's parts that need no daemon: flags, values, references, credentials, units, tables, frames, keys."""

from __future__ import annotations

import base64
import io
import json
import shutil
import subprocess
import tarfile
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client import registry
from client.archive import Reader, extract, pack
from client.commands.completion import SHELLS, bash, fish, zsh
from client.commands.copy import split_argument
from client.commands.ps import ports_text
from client.commands.stats import cpu_percent, memory_used
from client.config import HUB, ConfigFile, Credentials
from client.creation.validators import to_map
from client.endpoint import parse_endpoint
from client.errors import ClientError, UsageError
from client.http import encode_query, split_documents
from client.options import Command, Parsed, help_text, parse
from client.references import parse_reference
from client.render.progress import ProgressScreen, bar
from client.render.table import align
from client.render.units import binary_size, go_duration, human_duration, human_size
from client.session import filters_json
from client.streams import demultiplex
from client.terminal import DetachFilter, parse_detach_keys
from client.times import timestamp
from client.values import parse_bytes, parse_decimal, parse_duration, parse_int

FLAGS = """
d|detach|bool||Run in the background
i|interactive|bool||Keep STDIN open
t|tty|bool||Give a terminal
e|env|list||Set variables
p|publish|list||Publish ports
n|last|int|-1|How many
 |memory|bytes||Limit
 |!net|string||Old name
"""


def _command(**options: Any) -> Command:
    return Command(
        ("run", "container run"), "IMAGE [ARG...]", "Run it", lambda session, parsed: 0, FLAGS, **options
    )


def _parse(*words: str, **options: Any) -> Parsed:
    return parse(_command(**options), "run", words)


def test_flags_in_every_spelling() -> None:
    parsed = _parse(
        "-it", "-e", "A=1", "-eB=2", "--env=C=3", "--env", "D", "-p=80", "-p81", "--memory=1k", "-dn5", "img"
    )
    assert parsed.on("interactive") and parsed.on("tty") and parsed.on("detach")
    assert parsed.items("env") == ["A=1", "B=2", "C=3", "D"]
    assert parsed.items("publish") == ["80", "81"]
    assert parsed.number("memory") == 1024
    assert parsed.number("last") == 5
    assert parsed.arguments == ["img"]


def test_flags_stop_at_the_image_when_not_interspersed() -> None:
    assert _parse("img", "-e", "x", interspersed=False).arguments == ["img", "-e", "x"]
    assert _parse("img", "-d", "x").arguments == ["img", "x"]
    assert _parse("--", "-d", "x").arguments == ["-d", "x"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--nope"], "unknown flag: --nope"),
        (["-z"], "unknown shorthand flag: 'z' in -z"),
        (["-dz"], "unknown shorthand flag: 'z' in -z"),
        (["--env"], "flag needs an argument: --env"),
        (["-e"], "flag needs an argument: 'e' in -e"),
        (["--memory", "x"], 'invalid argument "x" for "--memory" flag: invalid size: \'x\''),
        (
            ["-d=maybe"],
            'invalid argument "maybe" for "-d, --detach" flag: strconv.ParseBool: parsing "maybe": invalid syntax',
        ),
    ],
)
def test_wrong_flags_end_with_125_and_a_hint(words: list[str], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        _parse(*words)
    assert str(caught.value).splitlines()[0] == message
    assert str(caught.value).endswith("Run 'pyd run --help' for more information")
    assert caught.value.code == 125


def test_help_lists_flags_and_aliases_but_not_hidden_ones() -> None:
    text = help_text(_command(), "run")
    assert "  pyd container run, pyd run" in text
    assert "  -n, --last int       How many (default -1)" in text
    assert "--net" not in text


@pytest.mark.parametrize("name", sorted(registry.NAMES))
def test_every_command_has_help_and_a_well_formed_table(name: str) -> None:
    entry = registry.command(name)
    assert name in entry.names
    assert entry.summary and help_text(entry, name)
    flags = entry.table
    assert len({flag.name for flag in flags}) == len(flags)
    shorts = [flag.short for flag in flags if flag.short]
    assert len(set(shorts)) == len(shorts)
    for flag in flags:
        flag.initial()


def test_values() -> None:
    assert [parse_bytes(t) for t in ("512", "1k", "1KiB", "1.5m", "2 GB", "10b")] == [
        512,
        1024,
        1024,
        1572864,
        2 << 30,
        10,
    ]
    assert [parse_duration(t) for t in ("0", "1.5s", "1h2m3s", "-2ms", "500us")] == [
        0, 1_500_000_000, 3_723_000_000_000, -2_000_000, 500_000]  # fmt: skip
    assert parse_decimal("1.5") == 1_500_000_000
    assert [parse_int(t) for t in ("10", "0x10", "010", "-3")] == [10, 16, 8, -3]
    for wrong in ("", "1..2", "-1", "1q", "k"):
        with pytest.raises(ValueError):
            parse_bytes(wrong)
    for wrong in ("", "5", "5x", "x"):
        with pytest.raises(ValueError):
            parse_duration(wrong)


@pytest.mark.parametrize(
    ("text", "domain", "familiar", "canonical"),
    [
        ("busybox", "docker.io", "busybox", "docker.io/library/busybox:latest"),
        ("a/b:c", "docker.io", "a/b:c", "docker.io/a/b:c"),
        ("host:5000/x", "host:5000", "host:5000/x", "host:5000/x:latest"),
        ("localhost/x:1", "localhost", "localhost/x:1", "localhost/x:1"),
        ("[::1]:5000/x", "[::1]:5000", "[::1]:5000/x", "[::1]:5000/x:latest"),
        ("index.docker.io/library/y", "docker.io", "y", "docker.io/library/y:latest"),
        (
            "x@sha256:" + "a" * 64,
            "docker.io",
            "x@sha256:" + "a" * 64,
            "docker.io/library/x@sha256:" + "a" * 64,
        ),
    ],
)
def test_references(text: str, domain: str, familiar: str, canonical: str) -> None:
    reference = parse_reference(text)
    assert (reference.domain, reference.familiar, reference.canonical) == (domain, familiar, canonical)


@pytest.mark.parametrize("text", ["", "Upper", "a:", "a b", "a//b", ":tag", "a@sha256:short", "f" * 64])
def test_wrong_references(text: str) -> None:
    with pytest.raises(ClientError):
        parse_reference(text)


def test_credentials_are_dockers_and_unknown_fields_stay(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"psFormat": "x", "future": {"a": 1}}')
    config = ConfigFile(tmp_path)
    assert config.store(Credentials("reg:5000", "me", "p:w"))
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["auths"] == {"reg:5000": {"auth": base64.b64encode(b"me:p:w").decode()}}
    assert written["future"] == {"a": 1}
    found = ConfigFile(tmp_path).find("reg:5000")
    assert (found.username, found.password) == ("me", "p:w")
    assert json.loads(base64.urlsafe_b64decode(found.header())) == {
        "username": "me", "password": "p:w", "serveraddress": "reg:5000"}  # fmt: skip
    config.forget("reg:5000")
    assert json.loads((tmp_path / "config.json").read_text())["auths"] == {}
    assert ConfigFile(tmp_path).find(HUB).header() == base64.urlsafe_b64encode(b"{}").decode()


def test_credential_helper_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    helper = tmp_path / "docker-credential-fake"
    helper.write_text(
        '#!/bin/sh\nread server\n[ "$1" = get ] && echo \'{"Username":"u","Secret":"\'"$server"\'"}\'\n'
    )
    helper.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    (tmp_path / "config.json").write_text('{"credHelpers": {"reg": "fake"}}')
    found = ConfigFile(tmp_path).find("reg")
    assert (found.username, found.password) == ("u", "reg")


def test_a_broken_configuration_is_said(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ClientError, match="error loading config file"):
        ConfigFile(tmp_path)


def test_units() -> None:
    day = 86400
    ages = (0.5, 1, 59, 60, 3599, 3600, 7200, 47.4 * 3600, 13 * day, 59 * day, 400 * day)
    assert [human_duration(age) for age in ages] == [
        "Less than a second", "1 second", "59 seconds", "About a minute", "59 minutes", "About an hour", "2 hours",
        "47 hours", "13 days", "8 weeks", "13 months"]  # fmt: skip
    assert [human_size(s, 3) for s in (0, 999, 1000, 1982256, 10**9)] == [
        "0B",
        "999B",
        "1kB",
        "1.98MB",
        "1GB",
    ]
    assert binary_size(23.54 * 1024**3) == "23.54GiB"
    assert [go_duration(n) for n in (0, 1_500_000, 10**9, 90 * 10**9, 3600 * 10**9)] == [
        "0s",
        "1.5ms",
        "1s",
        "1m30s",
        "1h0m0s",
    ]


def test_columns_are_blocks() -> None:
    assert align(["a\tb", "long-first-cell\tc", "no tab", "x\ty"]) == [
        "a                 b", "long-first-cell   c", "no tab", "x         y"]  # fmt: skip


def test_ports_are_joined() -> None:
    def port(private: int, public: int = 0, ip: str = "", kind: str = "tcp") -> dict[str, Any]:
        return {"PrivatePort": private, "PublicPort": public, "IP": ip, "Type": kind}

    ports = [
        port(80, 80, "0.0.0.0"),
        port(81, 81, "0.0.0.0"),
        port(80, 80, "::"),
        port(9, 1009, "0.0.0.0", "udp"),
        port(99),
    ]
    assert ports_text(ports) == "0.0.0.0:80-81->80-81/tcp, [::]:80->80/tcp, 99/tcp, 0.0.0.0:1009->9/udp"


@given(st.lists(st.tuples(st.sampled_from([1, 2]), st.binary(max_size=50)), max_size=8), st.integers(1, 20))
def test_frames_survive_any_cut(frames: list[tuple[int, bytes]], step: int) -> None:
    wire = b"".join(bytes([stream, 0, 0, 0]) + len(data).to_bytes(4, "big") + data for stream, data in frames)
    got = {1: b"", 2: b""}
    for stream, data in demultiplex(wire[i : i + step] for i in range(0, len(wire), step)):
        got[stream] += bytes(data)
    assert got == {n: b"".join(data for stream, data in frames if stream == n) for n in (1, 2)}


def test_a_cut_frame_is_an_error() -> None:
    with pytest.raises(ClientError, match="middle of a frame"):
        list(demultiplex([b"\x01\0\0\0\0\0\0\x05ab"]))
    with pytest.raises(ClientError, match="unrecognized stream"):
        list(demultiplex([b"HTTP/1.1"]))


def test_detach_keys() -> None:
    assert parse_detach_keys("ctrl-p,ctrl-q") == b"\x10\x11"
    assert parse_detach_keys("a,ctrl-[") == b"a\x1b"
    for wrong in ("ctrl-1", "ab", "ctrl-"):
        with pytest.raises(ClientError):
            parse_detach_keys(wrong)
    keys = DetachFilter(b"\x10\x11")
    assert keys.feed(b"ab\x10") == (b"ab", False)
    assert keys.feed(b"c\x10\x10") == (b"\x10c\x10", False)
    assert keys.feed(b"\x11zz") == (b"", True)


def test_documents_need_no_lines() -> None:
    assert list(split_documents(iter([b'{"a": 1}{"b":', b' 2}\n\n{"c": 3}']))) == [
        {"a": 1},
        {"b": 2},
        {"c": 3},
    ]


def test_progress_without_a_terminal_leaves_bars_out() -> None:
    out = io.StringIO()
    screen = ProgressScreen(out)
    screen.show({"status": "Pulling from x", "id": "latest"})
    screen.show({"status": "Downloading", "id": "abc", "progressDetail": {"current": 1, "total": 2}})
    screen.show({"status": "Pull complete", "id": "abc", "progressDetail": {}})
    screen.show({"stream": "Loaded image: x\n"})
    assert out.getvalue() == "latest: Pulling from x\nabc: Pull complete\nLoaded image: x\n"
    with pytest.raises(ClientError, match=r"^no space$"):
        screen.show({"errorDetail": {"message": "no space"}, "error": "no space"})


def test_bars() -> None:
    assert bar({"current": 50, "total": 100}, 200) == "[" + "=" * 25 + ">" + " " * 25 + "]      50B/100B"
    assert bar({"current": 50, "total": 100}, 80) == "     50B/100B"
    assert bar({"current": 1500}, 80) == "   1.5kB"
    assert bar({}, 80) == ""


def test_endpoints() -> None:
    unix = parse_endpoint("unix:///run/x.sock")
    assert (unix.scheme, unix.path) == ("unix", "/run/x.sock")
    tcp = parse_endpoint("tcp://[::1]:2376/prefix")
    assert (tcp.host, tcp.port, tcp.path) == ("::1", 2376, "/prefix")
    assert parse_endpoint("host").port == 2375
    for wrong in ("npipe:////x", "ssh://x", "tcp://x:99999"):
        with pytest.raises(ClientError):
            parse_endpoint(wrong)


def test_queries_and_filters() -> None:
    assert encode_query({"a": 1, "b": True, "c": None, "d": ["x y", "z"]}) == "?a=1&b=1&d=x+y&d=z"
    assert encode_query({}) == ""
    assert json.loads(str(filters_json([("name", "a"), ("name", "b")]))) == {"name": {"a": True, "b": True}}
    assert filters_json([]) is None
    assert to_map(["a=b", "c", "d=e=f"]) == {"a": "b", "c": "", "d": "e=f"}


def test_times() -> None:
    assert timestamp("") == ""
    assert timestamp("1136073600.5") == "1136073600.5"
    assert timestamp("2006-01-02T15:04:05Z") == "1136214245.000000000"
    assert timestamp("2006-01-02T15:04:05.123456789+01:00") == "1136210645.123456789"
    assert abs(float(timestamp("10m")) - (time.time() - 600)) < 5
    with pytest.raises(ClientError, match="failed to parse value as time or duration"):
        timestamp("yesterday")


def test_stats_numbers() -> None:
    sample = {
        "cpu_stats": {"cpu_usage": {"total_usage": 300}, "system_cpu_usage": 2000, "online_cpus": 2},
        "precpu_stats": {"cpu_usage": {"total_usage": 100}, "system_cpu_usage": 1000},
    }
    assert cpu_percent(sample) == 40.0
    assert memory_used({"usage": 100, "stats": {"total_inactive_file": 30, "inactive_file": 10}}) == 70
    assert memory_used({"usage": 100, "stats": {"inactive_file": 10}}) == 90
    assert memory_used({}) == 0


def test_cp_arguments() -> None:
    assert split_argument("c:/x") == ("c", "/x")
    assert split_argument("/a:b") == ("", "/a:b")
    assert split_argument("./a:b") == ("", "./a:b")
    assert split_argument("plain") == ("", "plain")


def test_archives_go_there_and_back(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "sub").mkdir(parents=True)
    (source / "a").write_bytes(b"1" * 300_000)
    (source / "sub/l").symlink_to("../a")
    target = tmp_path / "target"
    target.mkdir()
    size = extract(Reader(pack(str(source), "source")), str(target), ("source", "renamed"), owners=False)
    assert size == 300_000
    assert (target / "renamed/a").read_bytes() == (source / "a").read_bytes()
    assert (target / "renamed/sub/l").readlink() == Path("../a")


@pytest.mark.parametrize("kind", ["dotdot", "through a link", "device", "truncated"])
def test_hostile_archives_write_nothing_outside(tmp_path: Path, kind: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    target = tmp_path / "target"
    target.mkdir()
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        evil = tarfile.TarInfo("x/../../outside/evil" if kind == "dotdot" else "x/link/evil")
        evil.size = 4
        if kind == "through a link":
            link = tarfile.TarInfo("x/link")
            link.type, link.linkname = tarfile.SYMTYPE, str(outside)
            tar.addfile(link)
        if kind == "device":
            evil.type, evil.size = tarfile.CHRTYPE, 0
        tar.addfile(evil, io.BytesIO(b"evil"))
    data = buffer.getvalue()[:514] if kind == "truncated" else buffer.getvalue()
    with pytest.raises(ClientError):
        extract(Reader(iter([data])), str(target), ("x", "x"), owners=False)
    assert list(outside.iterdir()) == []


@pytest.mark.parametrize(("shell", "make"), list(zip(SHELLS, (bash, zsh, fish), strict=True)))
def test_completion_scripts_are_well_formed(shell: str, make: Any, tmp_path: Path) -> None:
    text = make()
    assert "--publish-all" in text or "-l publish-all" in text
    if shutil.which(shell):
        (tmp_path / "script").write_text(text)
        assert subprocess.run([shell, "-n", str(tmp_path / "script")], check=False).returncode == 0


def test_bash_completes_commands_and_flags() -> None:
    ask = 'COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); _pyd; echo "${{COMPREPLY[@]}}"'

    def complete(words: str) -> list[str]:
        script = bash() + "\n" + ask.format(words=words)
        return subprocess.run(
            ["bash", "-c", script], capture_output=True, text=True, check=True
        ).stdout.split()

    assert complete("pyd ru") == ["run"]
    assert complete("pyd container sto") == ["stop"]
    assert set(complete("pyd run --publ")) == {"--publish", "--publish-all"}
    assert "--filter" in complete("pyd -H x container ls --f")
