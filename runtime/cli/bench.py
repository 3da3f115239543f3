"""``speech bench tts | asr | turn | transport | memory | wer | idle``."""

from __future__ import annotations

import asyncio
import importlib
import os
import sys
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from enum import StrEnum
from pathlib import Path
from types import ModuleType
from typing import Any

import typer
from rich.table import Table

from runtime.bench import accuracy as accuracy_bench
from runtime.bench import asr as asr_bench
from runtime.bench import chaos as chaos_bench
from runtime.bench import floors as floors_bench
from runtime.bench import idle as idle_bench
from runtime.bench import memory as memory_bench
from runtime.bench import planning as planning_bench
from runtime.bench import transport as transport_bench
from runtime.bench import tts as tts_bench
from runtime.bench import turn as turn_bench
from runtime.bench.private import private_daemon
from runtime.bench.report import report
from runtime.cli.bench_engine import (
    bench_live_parakeet,
    bench_recognizer,
    bench_synthesizer,
    engine_options,
    summary,
)
from runtime.cli.bench_recordings import bench_recordings
from runtime.cli.output import console, notes, print_json, working
from runtime.client import SpeechClient
from runtime.daemon import running_daemon
from runtime.engines import make_recognizer, make_synthesizer
from runtime.errors import InvalidRequest
from runtime.memory.device import devices, read
from runtime.settings import Settings

app = typer.Typer(help="Measure the daemon from the caller's side.", no_args_is_help=True)

_Streams = typer.Option("1,2,4", "--streams", help="Streams at once, for each row.")
_Utterances = typer.Option(16, "--utterances", help="Utterances a row.")
_Engine = typer.Option(
    None, "--engine", help="This engine in this process, without a daemon; else the running one."
)
_Weights = typer.Option(None, "--weights", help="With --engine: its checkpoint, a .nemo.")
_Option = typer.Option(
    None, "--option", metavar="KEY=VALUE", help="With --engine: any other option it has."
)
_Overhead = typer.Option(
    0, "--overhead", help="Repeats against the same engine in this process; 0 leaves it out."
)
_Json = typer.Option(False, "--json", help="Print one JSON object.")


@app.command()
def tts(
    streams: str = _Streams,
    utterances: int = _Utterances,
    engine: str | None = _Engine,
    weights: str | None = _Weights,
    codec: str | None = typer.Option(None, "--codec", help="With --engine: Magpie's codec."),
    longest_s: float | None = typer.Option(
        None, "--max-utterance-s", help="With --engine: end each chunk there, for random weights."
    ),
    option: list[str] | None = _Option,
    paced_s: float | None = typer.Option(
        None,
        "--paced-seconds",
        min=0.0,
        help="How long requests arrive in rows at real-time load; 0 leaves these rows out. "
        "Without it they are as many as without pacing.",
    ),
    overhead: int = _Overhead,
    as_json: bool = _Json,
) -> None:
    """First audio, real-time factor, throughput and underruns of synthesis."""
    counts = _counts(streams)
    named = {"weights": weights, "codec": codec, "max_utterance_s": longest_s}
    options = engine_options(option or []) | {k: v for k, v in named.items() if v is not None}
    if engine is not None:
        _without_overhead(overhead)
        with working("measuring ...", quiet=as_json):
            result = bench_synthesizer(engine, options, counts, utterances, paced_s, _show(as_json))
        _print(result, as_json)
        if not as_json:
            console.print(summary(result))
        return
    _without_options(options)

    async def run(client: SpeechClient) -> dict[str, Any]:
        (loaded,) = (await client.info())["TTS"].engines
        rows = await tts_bench.sweep(client, counts, utterances, paced_s, _show(as_json))
        if overhead:
            local = make_synthesizer(loaded.name)
            await local.load()
            rows += await tts_bench.overhead(client, local, overhead)
        return report(loaded.name, loaded.load.seconds, loaded.load.warmup_ms, rows)

    _print(asyncio.run(_connected(Settings(), run)), as_json)


@app.command()
def asr(
    streams: str = _Streams,
    utterances: int = _Utterances,
    engine: str | None = _Engine,
    weights: str | None = _Weights,
    option: list[str] | None = _Option,
    seconds: float = typer.Option(
        10.0, min=0.1, help="With --engine parakeet: the length of the recordings."
    ),
    live_only: bool = typer.Option(
        False, "--live-only", help="With --engine: no rows of recordings."
    ),
    block_ms: float | None = typer.Option(
        None, min=1.0, help="With --engine: how much audio live streams push at once; else 80 ms."
    ),
    nemo_steps: int | None = typer.Option(
        None,
        min=0,
        help="With --engine parakeet-streaming: steps of NeMo's own pipeline after it, else 30; "
        "0 leaves it out.",
    ),
    overhead: int = _Overhead,
    as_json: bool = _Json,
) -> None:
    """Time from the last sample to the final transcript, throughput and word errors."""
    counts = _counts(streams)
    options = engine_options(option or []) | (
        {} if weights is None else {"weights": os.path.abspath(weights)}
    )
    if engine is not None:
        _without_overhead(overhead)
        show = _show(as_json)
        how: dict[str, Any] = {"live_only": True} if live_only else {}
        if block_ms is not None:
            how["block_s"] = block_ms / 1000
        if (how and engine == "parakeet") or (
            nemo_steps is not None and engine != "parakeet-streaming"
        ):
            raise InvalidRequest(_OF_LIVE_STREAMS)
        with working("measuring ...", quiet=as_json):
            if engine == "parakeet":  # recordings, not live callers
                result = bench_recordings(options, counts, utterances, seconds, show)
            elif engine == "parakeet-streaming":
                steps = 30 if nemo_steps is None else nemo_steps
                result = bench_live_parakeet(options, counts, utterances, steps, show, **how)
            else:
                result = bench_recognizer(engine, options, counts, utterances, show, **how)
        _print(result, as_json)
        return
    _without_options(options)
    if live_only or block_ms is not None or nemo_steps is not None:
        raise InvalidRequest(_OF_LIVE_STREAMS)

    async def run(client: SpeechClient) -> dict[str, Any]:
        engines = {loaded.role: loaded for loaded in (await client.info())["ASR"].engines}
        rows = await asr_bench.sweep(client, counts, utterances, _show(as_json))
        if overhead:
            live, file = (make_recognizer(engines[role].name) for role in ("live", "file"))
            await live.load()
            await file.load()
            rows += await asr_bench.overhead(client, live, file, overhead)
        return report(
            ", ".join(f"{role}: {loaded.name}" for role, loaded in engines.items()),
            sum(loaded.load.seconds for loaded in engines.values()),
            sum(loaded.load.warmup_ms for loaded in engines.values()),
            rows,
        )

    _print(asyncio.run(_connected(Settings(), run)), as_json)


@app.command()
def turn(
    streams: str = _Streams,
    utterances: int = typer.Option(20, "--utterances", help="Turns a row."),
    pipeline: bool = typer.Option(
        True, help="Also whole calls through a Pipecat pipeline, in real time."
    ),
    smart_turn: bool = typer.Option(
        True, help="In the pipeline, a model decides whether the user has ended, else the VAD does."
    ),
    weightless: bool = typer.Option(
        False, "--weightless", help="A daemon of its own, with engines that cost nothing."
    ),
    chaos: bool = typer.Option(
        False,
        "--chaos",
        help="Instead, kill, drain and scale replicas of a daemon of its own, and barge in.",
    ),
    as_json: bool = _Json,
) -> None:
    """From the end of the user's speech to the first audio of the answer, without an LLM."""
    if chaos:
        _chaos(as_json)
        return
    counts = _counts(streams)
    show = _show(as_json)

    async def run(client: SpeechClient) -> dict[str, Any]:
        loaded = [engine for info in (await client.info()).values() for engine in info.engines]
        clips = await turn_bench.clips(None if weightless else client)
        rows = await turn_bench.sweep(client, clips, counts, utterances, show)
        if pipeline:
            voice = _voice_bench()
            rows += await voice.sweep(
                settings, clips, counts, utterances, show, smart_turn=smart_turn
            )
        return report(
            ", ".join(engine.name for engine in loaded),
            sum(engine.load.seconds for engine in loaded),
            sum(engine.load.warmup_ms for engine in loaded),
            rows,
        )

    document = transport_bench.document(replicas=1)
    with private_daemon(document) if weightless else nullcontext(Settings()) as settings:
        _print(asyncio.run(_connected(settings, run)), as_json)


def _voice_bench() -> ModuleType:
    try:
        return importlib.import_module("runtime.bench.voice")
    except ImportError as missing:
        raise InvalidRequest(
            "Calls through a pipeline need "
            'Pipecat: pip install "speech-runtime[bots]"; or leave them out with --no-pipeline.'
        ) from missing


def _chaos(as_json: bool) -> None:
    async def run(client: SpeechClient) -> dict[str, Any]:
        loaded = [engine for info in (await client.info()).values() for engine in info.engines]
        counter = await SpeechClient.connect(settings=settings, application=chaos_bench.COUNTING)
        try:
            rows = await chaos_bench.run(client, counter, _show(as_json))
        finally:
            await counter.aclose()
        names = ", ".join(engine.name for engine in loaded)
        return report(f"{names}; {chaos_bench.REPLICAS} replicas each", 0.0, 0.0, rows)

    with private_daemon(chaos_bench.document()) as settings:
        _print(asyncio.run(_connected(settings, run)), as_json)


@app.command()
def transport(
    seconds: float = typer.Option(10.0, help="How long each row lasts."),
    as_json: bool = _Json,
) -> None:
    """What handles and sessions cost with many streams, on engines that cost nothing."""
    sessions = [(1, 1), (16, 1), (64, 1), (256, 4)]
    with private_daemon(transport_bench.document()) as settings:
        rows = asyncio.run(
            transport_bench.sweep(settings, sessions, [1, 10, 40], seconds, _show(as_json))
        )
    _print(report("engines that cost nothing, two replicas each", 0.0, 0.0, rows), as_json)


class _Part(StrEnum):
    plan = "plan"
    neighbour = "neighbour"
    floors = "floors"


@app.command()
def memory(
    seconds: float = typer.Option(30.0, min=5.0, help="How long the neighbour takes to load."),
    only: _Part | None = typer.Option(None, "--only", help="This part alone; all by default."),
    as_json: bool = _Json,
) -> None:
    """The budget on paper; on a GPU also the accountant beside neighbours of two kinds.

    One starts as vLLM does, the other takes what nobody planned for.
    """
    gpu = devices(read())[0]
    if gpu.kind == "host" and only not in (None, _Part.plan):
        raise InvalidRequest(f"There is no GPU here, and {only} measures what its driver shows.")
    parts = tuple(_Part) if only is None else (only,)
    show = _show(as_json)
    rows = []
    with working("measuring ...", quiet=as_json):
        if _Part.plan in parts:
            rows += planning_bench.run(show)
        if _Part.neighbour in parts and gpu.kind != "host":
            rows += asyncio.run(memory_bench.run(seconds, show))
        if _Part.floors in parts and gpu.kind != "host":
            rows += floors_bench.run(gpu.key, show)
    if only is _Part.plan or gpu.kind == "host":
        result = report("the plan alone, no engine", 0.0, 0.0, rows)
    else:
        result = report("ballast of the size of Magpie and Parakeet streaming", 0.0, 0.0, rows)
    if gpu.kind != "host":
        result["device"] = f"{gpu.name}; {result['device']}"
    elif only is None:
        result["note"] = (
            "There is no GPU here: the rows beside neighbours are left out, as they compare "
            "what replicas claim with what a GPU's driver shows of them."
        )
    _print(result, as_json)


@app.command()
def wer(
    manifest: Path = typer.Argument(help='A JSON list of {"file", "text"}.'),
    as_json: bool = _Json,
) -> None:
    """Word error rate on recordings with known text."""

    async def run(client: SpeechClient) -> dict[str, Any]:
        engines = (await client.info())["ASR"].engines
        rows = await accuracy_bench.score(client, manifest)
        names = ", ".join(f"{loaded.role}: {loaded.name}" for loaded in engines)
        return report(names, 0.0, 0.0, rows)

    _print(asyncio.run(_connected(Settings(), run)), as_json)


@app.command()
def idle(
    seconds: float = typer.Option(20.0, help="How long to watch."), as_json: bool = _Json
) -> None:
    """CPU and memory of the daemon's processes while nobody speaks."""
    record = running_daemon(Settings())
    with working(f"watching for {seconds:g} s ...", quiet=as_json):
        rows = idle_bench.measure(record.pid, seconds)
    _print(report(record.config, record.ready_s or 0.0, 0.0, rows), as_json)


async def _connected(
    settings: Settings, run: Callable[[SpeechClient], Awaitable[dict[str, Any]]]
) -> dict[str, Any]:
    client = await SpeechClient.connect(settings=settings)
    try:
        return await run(client)
    finally:
        await client.aclose()


_OF_LIVE_STREAMS = (
    "--live-only and --block-ms are of an --engine that hears live streams, and --nemo-steps is of "
    "--engine parakeet-streaming."
)


def _without_overhead(overhead: int) -> None:
    if overhead:
        raise InvalidRequest("--overhead compares with a daemon's engine; --engine needs none.")


def _without_options(options: dict[str, Any]) -> None:
    if options:
        raise InvalidRequest(f"{', '.join(options)}: these are options of --engine NAME.")


def _counts(streams: str) -> list[int]:
    try:
        counts = [int(part) for part in streams.split(",")]
    except ValueError:
        counts = []
    if not counts or min(counts) < 1:
        raise InvalidRequest(f"--streams {streams!r} is not a list of counts such as 1,2,4.")
    return counts


def _show(as_json: bool) -> Callable[[dict[str, Any]], None]:
    """Rows as they come, on standard error: what has been measured outlives what fails later."""

    def show(row: dict[str, Any]) -> None:
        if as_json:
            print_json(row, sys.stderr)
            return
        what = row.get("scenario") or f"{row.get('path', '')} {row['streams']} streams"
        notes.print(f"[dim]{what} done[/]")

    return show


def _print(result: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(result)
        return
    console.print(f"{result['engine']} on {result['device']}")
    rows = result["rows"]
    columns = list(dict.fromkeys(key for row in rows for key in row))
    table = Table(*columns, box=None)
    for row in rows:
        table.add_row(*(_cell(row.get(column)) for column in columns))
    console.print(table)
    console.print("[dim]Latencies are p50 / p99 in ms.[/]")
    if note := result.get("note"):
        console.print(note)


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        return f"{value['p50']:g} / {value['p99']:g}" if value["n"] else ""
    return "" if value is None else str(value)
