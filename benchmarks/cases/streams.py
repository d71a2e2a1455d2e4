"""Bytes through an engine: exec's standard streams, and logs."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator

from benchmarks.cases import Setting
from benchmarks.engines import IMAGE, LABEL, Engine
from benchmarks.measure import Action, Row, alternate
from tests.system.host import ENVIRONMENT

MEGABYTES = 512
LINES = 200_000
ROUNDS = 5


def exec_stream(setting: Setting) -> Iterator[Row]:
    for side in setting.sides:
        side.docker("run", "-d", "--name", "pyd-bench-cat", "--label", LABEL, IMAGE, "sleep", "100000")
    try:
        medians = alternate([_through_cat(side) for side in setting.sides], ROUNDS)
        rates = [MEGABYTES / median for median in medians]  # MB in ms is GB in s
        yield Row.of(
            "docker exec -i C cat, /dev/zero", "GB/s", rates,
            limit=1, ratio_limit=1, more_is_better=True,
        )  # fmt: skip
    finally:
        for side in setting.sides:
            side.clean()


def _through_cat(side: Engine) -> Action:
    line = " ".join(side.command("exec", "-i", "pyd-bench-cat", "cat"))
    script = f"head -c {MEGABYTES}M /dev/zero | {line} >/dev/null"
    return lambda: subprocess.run(["sh", "-c", script], check=True, env=ENVIRONMENT)


def logging(setting: Setting) -> Iterator[Row]:
    line = "x" * 80
    for side in setting.sides:
        write = f"yes {line} | head -n {LINES}"
        side.docker("create", "--name", "pyd-bench-log", "--label", LABEL, IMAGE, "sh", "-c", write)
    try:
        medians = alternate([_start_and_wait(side) for side in setting.sides], ROUNDS, warm=0)
        rates = [LINES / median for median in medians]
        yield Row.of(
            "json-file logging, 81-byte lines", "k lines/s", rates,
            ratio_limit=1, more_is_better=True,
        )  # fmt: skip
    finally:
        for side in setting.sides:
            side.clean()


def _start_and_wait(side: Engine) -> Action:
    def act() -> None:
        side.docker("start", "pyd-bench-log")
        side.docker("wait", "pyd-bench-log")

    return act


def start_beside_a_noisy_one(setting: Setting) -> Iterator[Row]:
    """How much longer a start takes while another container logs without pause."""
    quiet = _start_latency(setting)
    options = ("--label", LABEL, "--log-opt", "max-size=10m", "--name", "pyd-bench-noise")
    slower = []
    for index, side in enumerate(setting.sides):
        side.docker("run", "-d", *options, IMAGE, "yes", "x" * 80)
        try:
            noisy = _start_latency(setting)[index]
        finally:
            with contextlib.suppress(RuntimeError):
                side.clean()
        slower.append(noisy / quiet[index])
    yield Row.of("start latency beside a container that logs all it can", "x", slower, limit=1.5)


def _start_latency(setting: Setting) -> list[float]:
    run = ("run", "--rm", "--network", "none", IMAGE, "true")
    return alternate([side.timed(*run) for side in setting.sides], max(5, setting.rounds // 2))
