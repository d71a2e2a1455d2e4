"""`python -m benchmarks [--peer unix:///PATH] [--rounds 20] [CASE ...]`: a table of pyd, the peer and their ratio."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.cases import Cannot, Case, Setting, commands, crowd, pulling, runtime, streams
from benchmarks.engines import peer, pyd
from benchmarks.measure import Row, number
from tests.system import images

CASES: dict[str, Case] = {
    "idle": crowd.idle,
    "run": commands.run,
    "ps": commands.ps,
    "exec": commands.exec_,
    "oci": runtime.oci,
    "supervisor": runtime.supervisor,
    "stream": streams.exec_stream,
    "logging": streams.logging,
    "noise": streams.start_beside_a_noisy_one,
    "pull": pulling.pull,
    "crowd": crowd.crowd,
    "list": commands.listing,
}


def options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--peer", default=os.environ.get("DOCKERD"), help="a dockerd's socket; default $DOCKERD"
    )
    parser.add_argument("--rounds", type=int, default=20, help="runs that a median is taken of")
    parser.add_argument("--many", type=int, default=200, help="containers of the case `crowd`")
    parser.add_argument("--listed", type=int, default=1000, help="containers of the case `list`")
    parser.add_argument("--markdown", action="store_true", help="print the table as README.md has it")
    parser.add_argument("case", nargs="*", choices=[[], *CASES], help=f"only these of {', '.join(CASES)}")
    return parser.parse_args(arguments)


def line(row: Row, *, markdown: bool) -> str:
    theirs = number(row.theirs) if row.theirs is not None else "-"
    ratio = number(row.ratio) if row.ratio is not None else "-"
    verdict = {True: "met", False: "MISSED", None: ""}[row.met]
    if markdown:
        return (
            f"| {row.name} | {number(row.ours)} {row.unit} | {theirs} | {ratio} | {row.target} | {verdict} |"
        )
    return f"{row.name:<62}{number(row.ours):>9} {row.unit:<10}{theirs:>9}{ratio:>8}   {row.target:<20} {verdict}"


def main(arguments: list[str]) -> int:
    chosen = options(arguments)
    missed = 0
    with tempfile.TemporaryDirectory(prefix="pyd-") as name:
        directory = Path(name)
        tar = images.busybox(directory)
        if not chosen.peer:
            print("no dockerd to compare with: give one by --peer unix:///PATH or DOCKERD", file=sys.stderr)
        with pyd(directory, tar) as ours, peer(chosen.peer, tar) as theirs:
            setting = Setting(ours, theirs, chosen.rounds, chosen.many, chosen.listed, directory)
            print(_head(chosen.markdown), flush=True)
            for case in chosen.case or CASES:
                missed += _run(CASES[case], case, setting, markdown=chosen.markdown)
    return 1 if missed else 0


def _head(markdown: bool) -> str:
    machine = f"{os.cpu_count()} processors, Linux {os.uname().release}, {time.strftime('%Y-%m-%d')}"
    if markdown:
        return f"<!-- {machine} -->\n| what | pyd | dockerd | ratio | target | |\n|---|---|---|---|---|---|"
    return f"{machine}\n{'':<62}{'pyd':>9} {'':<10}{'dockerd':>9}{'ratio':>8}   target"


def _run(case: Case, name: str, setting: Setting, *, markdown: bool) -> int:
    """How many targets were missed."""
    missed = 0
    try:
        for row in case(setting):
            print(line(row, markdown=markdown), flush=True)
            missed += row.met is False
    except Cannot as reason:
        print(f"{name}: cannot run: {reason}", flush=True)
    except Exception as error:  # one broken case must not hide the others' figures
        print(f"{name}: failed: {type(error).__name__}: {error}", flush=True)
        missed += 1
    return missed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
