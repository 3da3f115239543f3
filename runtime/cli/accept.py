"""``speech accept``: weights, memory, every language, accuracy and latency, in one report."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import typer
from rich.markup import escape

from runtime.accept.models import access_and_pull, needed
from runtime.accept.page import page
from runtime.accept.section import Section, worst
from runtime.accept.serving import measure, on_paper
from runtime.bench.private import private_daemon
from runtime.bench.report import commit, device, versions
from runtime.cli.output import VERDICTS, console, notes, print_json, working
from runtime.config import config_label, find_config, read_config
from runtime.daemon import DaemonRecord, is_starting, running_daemon
from runtime.engines.trials.line import Line, skipped
from runtime.engines.trials.matrix import matrix
from runtime.errors import DaemonUnavailable, InvalidRequest, SpeechError
from runtime.memory.device import devices, read
from runtime.models.hub import Hub, Token
from runtime.settings import Settings

_DAEMON = "Daemon"


def accept(
    config: str | None = typer.Argument(
        None,
        help="A Serve configuration file, or a shipped one's name. By default that of the "
        "running daemon, or embedded.",
    ),
    output: Path = typer.Option(
        Path("acceptance"), "--output", "-o", help="Where the report goes: this, .json and .md."
    ),
    source: Path | None = typer.Option(
        None, "--from", help="A folder with the checkpoints, or a Hugging Face cache; no hub."
    ),
    streams: str = typer.Option("1,2,4,8", "--streams", help="Streams at once, for each row."),
    utterances: int = typer.Option(16, "--utterances", min=1, help="Utterances a row."),
    max_wer: float = typer.Option(
        0.10, "--max-wer", min=0.0, help="Word errors per word of English that still pass."
    ),
    trials: bool | None = typer.Option(
        None,
        "--trials/--no-trials",
        help="Also try each checkpoint in a process of its own; by default unless a daemon runs.",
    ),
    as_json: bool = typer.Option(False, "--json", help="Print the report's JSON object."),
) -> None:
    """Try all that only this machine and these weights can show, and write a report of it.

    Checkpoints are pulled and tried; a daemon is started, or the running one taken; memory is
    compared with its plan, every language spoken, English heard again, and latencies measured.
    Start the neighbours before, vLLM say. Exit code 1 if anything failed.
    """
    began = time.monotonic()
    counts = _counts(streams)
    settings = Settings()
    running = _running(settings)
    path = find_config(config or (running.config if running else "embedded"))
    label = config_label(path)
    if running and running.config != label:
        raise InvalidRequest(
            f"A daemon runs {running.config}, and would be in the way of {label}: `speech down` "
            "first, or accept that one."
        )
    document = read_config(path)
    sections: list[Section] = []

    def done(section: Section) -> None:
        sections.append(section)
        if not as_json:
            _print(section)

    with working("checkpoints ...", quiet=as_json):
        models = needed(document, label)
        done(access_and_pull(models, settings, _hub, _silent, source))
    if trials or (trials is None and not running):
        with working("trying each checkpoint ...", quiet=as_json):
            done(Section("Trials", list(matrix(settings)), about="as `speech doctor --models`"))
    elif trials is None:
        # They take GiB that the ledger knows nothing of.
        why = "a daemon runs, whose memory it would take; give --trials if there is enough"
        done(Section("Trials", [skipped("checkpoints", "tried", why)]))
    done(on_paper(document, label))
    with ExitStack() as stack:
        if sections[0].verdict == "fail":
            done(_failed("start", "not started: a checkpoint is missing"))
        elif not running:
            try:
                with working("starting a daemon ...", quiet=as_json):
                    settings = stack.enter_context(private_daemon(document))
            except SpeechError as error:
                done(_failed("start", str(error)))
        if sections[-1].name != _DAEMON:
            note = _noting(as_json)
            try:
                asyncio.run(measure(settings, counts, utterances, max_wer, note, done))
            except SpeechError as error:  # it could not be reached, or went away
                done(_failed("reached", str(error)))
    verdict = worst([line for section in sections for line in section.lines])
    report = {
        "verdict": verdict,
        "config": label,
        "daemon": "the running daemon" if running else "a daemon of its own",
        "device": _machine(),
        "versions": versions(),
        "commit": commit(),
        "date": time.strftime("%Y-%m-%d"),
        "command": _command(config, streams, utterances),
        "seconds": round(time.monotonic() - began, 1),
        "sections": [section.as_json() for section in sections],
    }
    written = _write(report, output)
    if as_json:
        print_json(report)
    else:
        console.print(f"[{VERDICTS[verdict]}]{verdict}[/]: {', '.join(map(str, written))}")
    raise typer.Exit(1 if verdict == "fail" else 0)


def _running(settings: Settings) -> DaemonRecord | None:
    """The daemon that runs, if one does; one that is starting is not to be raced."""
    try:
        return running_daemon(settings)
    except DaemonUnavailable:
        if is_starting(settings):
            raise
        return None


def _failed(what: str, why: str) -> Section:
    return Section(_DAEMON, [Line("daemon", what, "fail", why, "speech doctor")])


def _write(report: dict[str, Any], output: Path) -> tuple[Path, Path]:
    as_object, as_page = (Path(f"{output}{suffix}") for suffix in (".json", ".md"))
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(report, ensure_ascii=False, indent=1)
        as_object.write_text(text + "\n", encoding="utf-8")
        as_page.write_text(page(report), encoding="utf-8")
    except OSError as error:
        raise InvalidRequest(f"--output {output} cannot be written: {error}.") from error
    return as_object, as_page


def _print(section: Section) -> None:
    console.print(f"[bold]{section.name}[/]")
    for line in section.lines:
        verdict = f"[{VERDICTS[line.verdict]}]{line.verdict}[/]"
        found = escape(f"{line.subject}, {line.what}: {line.found}")
        console.print(f"{verdict}  {found}", soft_wrap=True)
        if line.mend:
            console.print(f"      [dim]{escape(line.mend)}[/]", soft_wrap=True)


def _noting(quiet: bool) -> Callable[[str], None]:
    return (lambda _: None) if quiet else (lambda what: notes.print(f"[dim]{escape(what)}[/]"))


def _machine() -> str:
    first = devices(read())[0]
    return device() if first.kind == "host" else f"{first.name}; {device()}"


def _command(config: str | None, streams: str, utterances: int) -> str:
    named = ["speech", "accept", *([config] if config else [])]
    return " ".join([*named, "--streams", streams, "--utterances", str(utterances)])


def _counts(streams: str) -> list[int]:
    parts = streams.split(",")
    if not all(part.strip().isdecimal() and int(part) for part in parts):
        raise InvalidRequest(f"--streams {streams!r} is not a list of counts such as 1,2,4.")
    return [int(part) for part in parts]


def _hub() -> Hub:
    return Hub(Token.from_environment())


def _silent(name: str, done: int, total: int) -> None:
    """Progress of a download, which the spinner stands for."""
