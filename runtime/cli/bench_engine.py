"""``speech bench tts|asr --engine``: an engine in this process, its options, and its table."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

import yaml
from rich.table import Table

from runtime.bench import in_process, in_process_asr, nemo_pipeline
from runtime.bench.report import report
from runtime.engines import cuda, make_recognizer, make_synthesizer
from runtime.engines.nemo import pick_device
from runtime.engines.parakeet.checkpoint import inspect
from runtime.engines.parakeet.options import read_streaming_options
from runtime.errors import InvalidRequest, SpeechError
from runtime.memory.device import devices, read
from runtime.models.store import path_of
from runtime.speech import Recognizer, Synthesizer

EngineT = TypeVar("EngineT", Synthesizer, Recognizer)
Rows = list[dict[str, Any]]


def engine_options(given: Sequence[str]) -> dict[str, Any]:
    """Options from ``KEY=VALUE``, whose values are read as in a configuration.

    Raises:
        InvalidRequest: One has no ``=``, or is given twice.
    """
    options: dict[str, Any] = {}
    for one in given:
        key, equals, text = one.partition("=")
        if not key or not equals:
            raise InvalidRequest(f"--option {one!r} is not of the form KEY=VALUE.")
        if key in options:
            raise InvalidRequest(f"--option {key} is given twice.")
        try:
            options[key] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise InvalidRequest(f"--option {one!r} has a value that is no YAML.") from error
    return options


def bench_synthesizer(
    name: str,
    options: Mapping[str, Any],
    streams: Sequence[int],
    utterances: int,
    paced_s: float | None,
    on_row: Callable[[dict[str, Any]], None],
) -> dict[str, Any]:
    """Load an engine here, measure it, and close it again.

    Raises:
        SpeechError: There is no such engine, it does not take these options, or it failed.
    """

    async def measure(engine: Synthesizer) -> tuple[Rows, str]:
        rows = await in_process.sweep(engine, streams, utterances, paced_s, on_row)
        return rows, _notes(streams, rows, engine.capabilities.slots, paced=paced_s != 0)

    return _benched(name, options, make_synthesizer(name, options), measure)


def bench_recognizer(
    name: str,
    options: Mapping[str, Any],
    streams: Sequence[int],
    utterances: int,
    on_row: Callable[[dict[str, Any]], None],
    **how: Any,
) -> dict[str, Any]:
    """The same for an engine that listens; ``how`` is as ``in_process_asr.sweep`` has it.

    Raises:
        SpeechError: There is no such engine, it does not take these options, or it failed.
    """
    engine = make_recognizer(name, options)
    if how.get("live_only") and not engine.capabilities.streaming:
        raise InvalidRequest(f"{name} takes recordings only: there are no live rows to show.")
    if max(streams) > engine.capabilities.slots:
        raise InvalidRequest(
            f"{max(streams)} streams are more than the {engine.capabilities.slots} that the engine "
            f"holds; give it more with --option slots={max(streams)}."
        )

    async def measure(engine: Recognizer) -> tuple[Rows, str]:
        rows = await in_process_asr.sweep(engine, streams, utterances, on_row, **how)
        return rows, "The audio is babble: times count, words do not."

    return _benched(name, options, engine, measure)


def bench_live_parakeet(
    options: Mapping[str, Any],
    streams: Sequence[int],
    utterances: int,
    steps: int,
    on_row: Callable[[dict[str, Any]], None],
    **how: Any,
) -> dict[str, Any]:
    """``parakeet-streaming``, and after it NeMo's own pipeline with the same checkpoint.

    Args:
        options: Of the engine.
        streams: How many at once.
        utterances: At least how many in a row.
        steps: Of NeMo's pipeline, for each number of streams up to 128; 0 leaves it out.
        on_row: Told of each row when it is there.
        how: As ``in_process_asr.sweep`` has it.

    Raises:
        SpeechError: It does not take these options, or failed.
    """
    read = read_streaming_options(options)
    weights = inspect(read.common.weights or path_of(read.common.model_name)).weights
    result = bench_recognizer("parakeet-streaming", options, streams, utterances, on_row, **how)
    if steps:
        result["rows"] += nemo_pipeline.sweep(
            weights,
            read.right_context,
            streams,
            steps,
            on_row,
            device=pick_device(read.device),
            dtype=read.common.dtype,
        )
    return result


def _benched(
    name: str,
    options: Mapping[str, Any],
    engine: EngineT,
    measure: Callable[[EngineT], Awaitable[tuple[Rows, str]]],
) -> dict[str, Any]:
    async def run() -> dict[str, Any]:
        try:
            async with in_process.own_peak() as loading:
                loaded = await engine.load()
                await engine.exercise()
            gc.collect()
            gc.freeze()  # as a replica does: a full collection holds everybody up
            cuda.release_cached()  # rows show what they need themselves
            rows, notes = await measure(engine)
            result = report(name, loaded.seconds, loaded.warmup_ms, rows)
        finally:
            on_gpu = bool(cuda.allocator_peak())
            await engine.close()
            gc.unfreeze()
        if on_gpu:
            result["device"] = f"{devices(read())[0].name}; {result['device']}"
            claim = {"claim_gib": in_process.claim_gib(name, dict(options))}
            result["memory"] = claim | loading.figures()  # of loading, and of the fullest step
        return {**result, "details": loaded.details, **({"note": notes} if notes else {})}

    try:
        return asyncio.run(run())
    except ExceptionGroup as group:  # of the callers, who fail together
        ours = group.subgroup(SpeechError)
        while ours is not None:
            first = ours.exceptions[0]
            if isinstance(first, SpeechError):
                raise first from group
            ours = first if isinstance(first, ExceptionGroup) else None
        raise


def _notes(
    streams: Sequence[int], rows: Sequence[Mapping[str, Any]], slots: int, *, paced: bool
) -> str:
    notes = []
    if max(streams) > slots:
        notes.append(
            f"The engine serves {slots} at a time; with more streams the others wait, which is in "
            f"their figures."
        )
    kept_up = [row["streams"] for row in rows if row.get("pacing", "off") != "off"]
    slow = [count for count in streams if count not in kept_up]
    if paced and slow:
        notes.append(
            f"No rows with Poisson arrivals at {', '.join(map(str, slow))} streams: the engine is "
            f"slower than that many listeners."
        )
    return " ".join(notes)


def summary(result: Mapping[str, Any]) -> Table:
    """The figures that people ask for first; latency is that of whole utterances."""
    table = Table(box=None)
    columns = ("streams", "load s", "warm-up ms", "mean ms", "min ms", "max ms", "RTF")
    for column in columns:
        table.add_column(column, justify="right")
    for row in result["rows"]:
        if row.get("pacing") == "off":
            latency = row["utterance_ms"]
            figures = (latency["mean"], latency["min"], latency["max"])
            table.add_row(
                str(row["streams"]),
                f"{result['load_s']:.2f}",
                f"{result['warmup_ms']:.0f}",
                *(f"{value:.0f}" for value in figures),
                f"{row['rtf']:.3f}",
            )
    return table
