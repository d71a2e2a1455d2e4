"""Every sub-command of `docker container` and every option of it, on a running pydd; `pyd` has the same.

An option that docker's client has and no trial names fails `test_every_option_has_a_trial`: a new client
is noticed. The trials are in tests/system/options/.
"""

from __future__ import annotations

import itertools
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.system.host import ENVIRONMENT, REPOSITORY, Host
from tests.system.options import table
from tests.system.options.bench import Bench
from tests.system.options.table import Effect, Scene
from tests.system.options.trials import EFFECTS, SCENES

CLIENTS = ("docker", "pyd")
GROUPS = {name: tuple(rows) for name, rows in itertools.groupby(EFFECTS, key=lambda effect: effect.group)}
PLAYS = {scene.play: scene for scene in SCENES}
"""One scene may try options of several commands; it is played once."""
SHORT_NAMES = {"ls": "ps"}
"""`docker container ls` is `docker ps`; the others keep their name."""
HIDDEN = {
    "--cpu-count",
    "--cpu-percent",
    "--io-maxbandwidth",
    "--io-maxiops",
    "--checkpoint",
    "--checkpoint-dir",
}
"""pyd takes them to refuse them in docker's words, and does not show them."""
ONLY_UNDER_CONTAINER = {"inspect", "prune"}
"""`docker inspect` is of all objects and has --type; `docker prune` does not exist."""


@pytest.fixture
def bench(host: Host, tmp_path: Path, request: pytest.FixtureRequest) -> Bench:
    return Bench(host, request.param, tmp_path)


# -- nothing is forgotten


def tried() -> dict[str, set[str]]:
    """Command → its options that some trial names."""
    named = table.rows(EFFECTS, SCENES)
    return {command: {option for option, *_ in rows if option} for command, rows in named.items()}


def test_every_command_has_a_trial() -> None:
    assert set(table.commands()) == set(tried())


@pytest.mark.parametrize("command", sorted(tried()))
def test_every_option_has_a_trial(command: str) -> None:
    assert set(table.options("container", command)) == tried()[command]


def test_the_short_commands_have_the_same_options() -> None:
    for command in set(table.commands()) - ONLY_UNDER_CONTAINER:
        assert table.options(SHORT_NAMES.get(command, command)) == table.options("container", command), (
            command
        )


def test_pyd_has_every_command_and_option() -> None:
    program = [sys.executable, "-m", "client.main", "container"]
    for command in table.commands():
        shown = subprocess.run(
            [*program, command, "--help"],
            capture_output=True,
            text=True,
            env=ENVIRONMENT,
            cwd=REPOSITORY,
            check=False,
        )
        assert shown.returncode == 0, shown
        ours = {long: short for short, long, _ in table.OPTION.findall(shown.stdout) if long != "--help"}
        assert ours == {
            long: short for long, short in table.options("container", command).items() if long not in HIDDEN
        }, command


def test_the_document_is_current() -> None:
    """Renew it with: python -m tests.system.options.table --write"""
    text = table.DOCUMENT.read_text()
    assert table.placed(text, table.render(EFFECTS, SCENES)) == text


# -- effects of create and run


@pytest.fixture
def surroundings(bench: Bench) -> Iterator[dict[str, str]]:
    """What the words of an effect may name."""
    (bench.tmp / "labels").write_text("from-file=yes\n")
    (bench.tmp / "env").write_text("FROM_FILE=1\n")
    bench.tmp.chmod(0o755)
    net, subnet = bench.name, f"10.{os.getpid() % 50 + 190}.{os.getpid() % 250}"
    bench.host.docker("network", "create", "--subnet", f"{subnet}.0/24", net)
    other = bench.container("-v", "/kept", run="sh -c 'echo kept >/kept/file; sleep 600'")
    names = {"net": net, "address": f"{subnet}.77", "other": other, "disk": bench.disk, "tmp": str(bench.tmp)}
    yield names
    containers = bench.host.docker("ps", "-aq").split()
    bench.host.docker("rm", "-f", "-v", *containers)
    bench.host.docker("network", "rm", net)


@pytest.mark.parametrize("bench", CLIENTS, indirect=True)
@pytest.mark.parametrize("group", GROUPS)
def test_create_and_run(bench: Bench, surroundings: dict[str, str], group: str) -> None:
    """`create` with long options, `run` with short ones; each row's effect is there."""
    effects = GROUPS[group]
    for command in ("create", "run -d"):
        places = {**surroundings, "name": bench.name}
        shorts = table.options("container", "run") if command != "create" else {}
        words = [word for effect in effects for word in _words(effect, places, shorts)]
        named = [] if any(effect.option == "--name" for effect in effects) else ["--name", places["name"]]
        argument = ["-c", "sleep 600"] if group == "who" else ["sleep", "600"]
        done = bench.attempt(*command.split(), *named, *words, "busybox", *argument)
        assert done.returncode == 0, done
        said = (done.stdout + done.stderr).decode().lower()
        record = bench.inspect(places["name"])
        for effect in effects:
            _check_shown(effect, record, said, places)
        if command != "create":
            _check_inside(bench, effects, places["name"])
        bench.host.docker("rm", "-f", places["name"])


def _words(effect: Effect, places: dict[str, str], shorts: dict[str, str]) -> list[str]:
    option, *rest = shlex.split(effect.words.format(**places))
    return [shorts.get(option) or option, *rest]


def _check_shown(effect: Effect, record: dict[str, Any], said: str, places: dict[str, str]) -> None:
    if effect.warning and effect.warning in said:
        return
    for path, wanted in effect.shown.items():
        value: Any = record
        for part in path.format(**places).split("."):
            value = (value or {}).get(part)
        assert wanted(value) if callable(wanted) else value == wanted, f"{effect.option}: {path} is {value!r}"


def _check_inside(bench: Bench, effects: tuple[Effect, ...], name: str) -> None:
    looking = [effect for effect in effects if effect.inside[0]]
    script = "; echo =====; ".join(effect.inside[0] for effect in looking)
    if not looking:
        return
    pieces = bench.host.docker("exec", name, "sh", "-c", script).split("=====\n")
    for effect, piece in zip(looking, pieces, strict=True):
        assert effect.inside[1] in piece, f"{effect.option}: {effect.inside[0]} says {piece!r}"


# -- scenes


@pytest.mark.parametrize("bench", CLIENTS, indirect=True)
@pytest.mark.parametrize("scene", PLAYS.values(), ids=lambda scene: scene.name)
def test_scene(bench: Bench, scene: Scene) -> None:
    scene.play(bench)
