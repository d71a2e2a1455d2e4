"""`python -m benchmarks [--peer unix:///PATH] [--rounds 20] [CASE ...]`: a table of pyd, the peer and their ratio."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.cases import Cannot, Case, Setting, building, commands, crowd, pulling, runtime, streams
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
    "steps": building.steps,
    "stages": building.stages,
    "copying": building.copying,
    "cold": building.cold,
    "context": building.memory,
    "crowd": crowd.crowd,
    "list": commands.listing,
}


README = Path(__file__).resolve().parents[1] / "README.md"
BEGIN, END = "<!-- benchmarks: python -m benchmarks --readme -->", "<!-- /benchmarks -->"


def options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--peer", default=os.environ.get("DOCKERD"), help="a dockerd's socket; default $DOCKERD"
    )
    parser.add_argument("--rounds", type=int, default=20, help="runs that a median is taken of")
    parser.add_argument("--many", type=int, default=200, help="containers of the case `crowd`")
    parser.add_argument("--listed", type=int, default=1000, help="containers of the case `list`")
    parser.add_argument("--markdown", action="store_true", help="print the table as README.md has it")
    parser.add_argument("--readme", action="store_true", help="print it so, and put it into README.md")
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
    with tempfile.TemporaryDirectory(prefix="pyd-") as name:
        directory = Path(name)
        tar = images.busybox(directory)
        if not chosen.peer:
            print("no dockerd to compare with: give one by --peer unix:///PATH or DOCKERD", file=sys.stderr)
        with pyd(directory, tar) as ours, peer(chosen.peer, tar) as theirs:
            setting = Setting(ours, theirs, chosen.rounds, chosen.many, chosen.listed, directory)
            report = Report(markdown=chosen.markdown or chosen.readme)
            for case in chosen.case or CASES:
                report.run(CASES[case], case, setting)
    if chosen.readme:
        README.write_text(with_table(README.read_text(), report.lines))
    return 1 if report.missed else 0


def with_table(page: str, lines: list[str]) -> str:
    """The page with the table between its marks replaced."""
    before, rest = page.split(BEGIN)
    _, after = rest.split(END)
    return "\n".join([f"{before}{BEGIN}", *lines, f"{END}{after}"])


def _head(markdown: bool) -> str:
    machine = f"{os.cpu_count()} processors, Linux {os.uname().release}, {time.strftime('%Y-%m-%d')}"
    if markdown:
        return f"{machine}:\n\n| what | pyd | dockerd | ratio | target | |\n|---|---|---|---|---|---|"
    return f"{machine}\n{'':<62}{'pyd':>9} {'':<10}{'dockerd':>9}{'ratio':>8}   target"


class Report:
    """Prints each line as it comes, keeps them, and counts the targets that were missed."""

    def __init__(self, *, markdown: bool) -> None:
        self.markdown = markdown
        self.lines: list[str] = []
        self.missed = 0
        self._say(_head(markdown))

    def _say(self, text: str) -> None:
        self.lines.append(text)
        print(text, flush=True)

    def run(self, case: Case, name: str, setting: Setting) -> None:
        try:
            for row in case(setting):
                self._say(line(row, markdown=self.markdown))
                self.missed += row.met is False
        except Cannot as reason:
            print(f"{name}: cannot run: {reason}", flush=True)
        except Exception as error:  # one broken case must not hide the others' figures
            print(f"{name}: failed: {type(error).__name__}: {error}", flush=True)
            self.missed += 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
