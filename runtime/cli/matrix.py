"""``speech doctor --models``: each checkpoint that is here, and this machine, tried for real."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import typer
from rich.markup import escape

from runtime.bench.report import device, versions
from runtime.cli.output import VERDICTS, console, print_json, working
from runtime.engines.trials.line import Line
from runtime.engines.trials.matrix import matrix
from runtime.settings import Settings


def try_models(weights: Path | None, codec: Path | None, as_json: bool) -> None:
    """Run the matrix and print it, a line as soon as it is known. Exit code 1 if one failed."""
    findings = []
    lines = matrix(Settings(), weights, codec)
    while True:
        with working("trying ...", quiet=as_json):
            line = next(lines, None)
        if line is None:
            break
        findings.append(line)
        if not as_json:
            _print(line)
    good = all(line.verdict != "fail" for line in findings)
    if as_json:
        rows = [asdict(line) for line in findings]
        print_json({"ok": good, "device": device(), "versions": versions(), "findings": rows})
    raise typer.Exit(0 if good else 1)


def _print(line: Line) -> None:
    verdict = f"[{VERDICTS[line.verdict]}]{line.verdict}[/]"
    took = "" if line.seconds is None else f" [dim]({line.seconds:.1f} s)[/]"
    found = f"{escape(line.subject)}, {escape(line.what)}: {escape(line.found)}"
    console.print(f"{verdict}  {found}{took}", soft_wrap=True)
    if line.mend:
        console.print(f"      [dim]{escape(line.mend)}[/]", soft_wrap=True)
