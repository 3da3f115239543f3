"""Every metric there is, declared once: what exports it, and what is written of it, start here.

``deployments.metrics`` makes Ray's instruments of these; docs/reference/metrics.md is generated
from them. Ray puts ``ray_`` before each name, and on a replica's metrics the tags
``application``, ``deployment`` and ``replica``.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal, TypeAlias

Kind: TypeAlias = Literal["counter", "gauge", "histogram"]

# Buckets are close where a stage's target lies, and reach as far as somebody still waits.
_FIRST_AUDIO_MS = (5, 10, 15, 20, 30, 50, 75, 100, 150, 200, 300, 500, 1000, 2000, 5000)
_FINAL_MS = (5, 10, 15, 20, 30, 50, 75, 100, 150, 200, 300, 500, 750, 1000, 2000, 5000)
_QUEUE_MS = (1, 10, 50, 100, 500, 1000, 5000, 30_000)
_ORPHANED_MS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
_STEP_MS = (0.5, 1, 1.5, 2, 3, 4, 5, 7, 10, 15, 20, 30, 50, 100, 200, 500, 1000, 5000)
_BATCH = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
_RTF = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 5)


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric as it is exported.

    Attributes:
        name: Its name, without Ray's prefix.
        kind: A counter only grows, a gauge is the latest value, a histogram counts in buckets.
        unit: Of its value; ``1`` counts.
        help: What it tells, in a sentence.
        tags: What it is told apart by, beside Ray's own.
        boundaries: Upper bounds of a histogram's buckets, in ``unit``.
        of_replica: Whether a replica exports it; else the memory ledger does.
    """

    name: str
    kind: Kind
    unit: str
    help: str
    tags: tuple[str, ...] = ()
    boundaries: tuple[float, ...] = ()
    of_replica: bool = True


def _counter(name: str, unit: str, help: str, *tags: str) -> Metric:
    return Metric(name, "counter", unit, help, tags)


def _gauge(name: str, unit: str, help: str, *tags: str) -> Metric:
    return Metric(name, "gauge", unit, help, tags)


def _histogram(
    name: str, unit: str, help: str, boundaries: tuple[float, ...], *tags: str
) -> Metric:
    return Metric(name, "histogram", unit, help, tags, boundaries)


def _of_ledger(name: str, kind: Kind, unit: str, help: str, *tags: str) -> Metric:
    # One ledger tells of all nodes, and each has its own cuda:0.
    tags = ("node", "device", *tags)
    return Metric(f"speech_memory_{name}", kind, unit, help, tags, of_replica=False)


@dataclass(frozen=True, slots=True)
class EngineMetrics:
    """What an engine does, counts and measures by itself; see ``Counting`` and ``Stepping``."""

    slots: Metric
    active: Metric
    waiting: Metric
    step: Metric
    batch: Metric
    events: Metric
    fallbacks: Metric
    info: Metric


def _engine(kind: str, active: Metric, *tags: str) -> EngineMetrics:
    def name(what: str) -> str:
        return f"speech_{kind}_{what}"

    return EngineMetrics(
        slots=_gauge(name("slots"), "1", "Slots there are; 0 while parked.", *tags),
        active=active,
        waiting=_gauge(name("waiting"), "1", "Calls that wait for a slot.", *tags),
        step=_histogram(
            name("step_ms"),
            "ms",
            "A step of the model, for all streams in it together.",
            _STEP_MS,
            *tags,
            "stage",
        ),
        batch=_histogram(
            name("batch_size"), "1", "Streams that shared a step.", _BATCH, *tags, "stage"
        ),
        events=_counter(
            name("engine_events_total"),
            "1",
            "What the engine did to requests: characters removed, chunks cut short and the like.",
            *tags,
            "event",
        ),
        fallbacks=_counter(
            name("fallbacks_total"),
            "1",
            "How often something slower or lesser took over.",
            *tags,
            "fallback",
        ),
        info=_gauge(
            name("engine_info"),
            "1",
            "Always 1; the tags say which engine it is, and what normalises its texts.",
            *tags,
            "engine",
            "normalizer",
        ),
    )


@dataclass(frozen=True, slots=True)
class TtsMetrics:
    """Synthesis, as a replica of the TTS deployment sees it."""

    engine: EngineMetrics
    requests: Metric
    aborted: Metric
    first_audio: Metric
    rtf: Metric
    queue_wait: Metric
    underrun: Metric
    underrun_utterances: Metric
    audio: Metric
    removed: Metric
    taken_over: Metric
    orphaned: Metric


@dataclass(frozen=True, slots=True)
class AsrMetrics:
    """Recognition, as a replica of the ASR deployment sees it."""

    engine: EngineMetrics
    requests: Metric
    aborted: Metric
    final: Metric
    rtf: Metric
    queue_wait: Metric
    audio: Metric
    sessions: Metric
    taken_over: Metric
    orphaned: Metric


@dataclass(frozen=True, slots=True)
class MemoryMetrics:
    """Leases and floors; all but ``pressure`` are the ledger's."""

    claimed: Metric
    measured: Metric
    peak: Metric
    available: Metric
    budget: Metric
    floor: Metric
    leases: Metric
    refusals: Metric
    pressure: Metric


_ENDS = "`done`, `cancelled` by the caller, or the name of the error"

TTS = TtsMetrics(
    engine=_engine("tts", _gauge("speech_tts_active", "1", "Utterances under way.")),
    requests=_counter("speech_tts_requests_total", "1", f"Utterances, by end: {_ENDS}.", "outcome"),
    aborted=_counter(
        "speech_tts_aborted_total",
        "1",
        "Utterances that had a slot and did not reach their end: `cancelled`, or the error.",
        "reason",
    ),
    first_audio=_histogram(
        "speech_tts_first_audio_ms",
        "ms",
        "From the request's arrival at the replica to its first audio, waiting included.",
        _FIRST_AUDIO_MS,
    ),
    rtf=_histogram(
        "speech_tts_rtf",
        "1",
        "Seconds the engine took per second of audio, for an utterance; waiting is left out.",
        _RTF,
    ),
    queue_wait=_histogram("speech_tts_queue_wait_ms", "ms", "Waiting for a slot.", _QUEUE_MS),
    underrun=_counter(
        "speech_tts_underrun_seconds_total",
        "s",
        "Silence within utterances, for a listener who plays from the first audio on: the engine "
        "had none ready. Waiting for the reader is left out.",
    ),
    underrun_utterances=_counter(
        "speech_tts_underrun_utterances_total", "1", "Utterances with such silence."
    ),
    audio=_counter("speech_tts_audio_seconds_total", "s", "Audio synthesised."),
    removed=_counter(
        "speech_tts_removed_characters_total", "1", "Characters that could not be spoken."
    ),
    taken_over=_counter(
        "speech_tts_utterances_taken_over_total", "1", "Utterances that came from a lost replica."
    ),
    orphaned=_histogram(
        "speech_tts_orphaned_ms",
        "ms",
        "From a caller's leaving to its slot being free.",
        _ORPHANED_MS,
    ),
)

ASR = AsrMetrics(
    engine=_engine("asr", _gauge("speech_asr_active", "1", "Slots in use.", "mode"), "mode"),
    requests=_counter(
        "speech_asr_requests_total",
        "1",
        f"Sessions and recordings, by end: {_ENDS}.",
        "mode",
        "outcome",
    ),
    aborted=_counter(
        "speech_asr_aborted_total",
        "1",
        "Sessions and recordings that had a slot and did not reach their end: `cancelled`, or "
        "the error.",
        "mode",
        "reason",
    ),
    final=_histogram(
        "speech_asr_final_ms",
        "ms",
        "From the arrival of the request to end an utterance to its final transcript; only those "
        "in which something was said.",
        _FINAL_MS,
    ),
    rtf=_histogram(
        "speech_asr_rtf",
        "1",
        "Seconds the engine took per second of audio, for a recording in one call.",
        _RTF,
    ),
    queue_wait=_histogram(
        "speech_asr_queue_wait_ms", "ms", "Waiting for a slot.", _QUEUE_MS, "mode"
    ),
    audio=_counter("speech_asr_audio_seconds_total", "s", "Audio recognised."),
    sessions=_gauge("speech_asr_sessions", "1", "Open sessions."),
    taken_over=_counter(
        "speech_asr_sessions_taken_over_total", "1", "Sessions that came from a lost replica."
    ),
    orphaned=_histogram(
        "speech_asr_orphaned_ms",
        "ms",
        "From a caller's leaving to its slot being free.",
        _ORPHANED_MS,
    ),
)

_LEASE = ("deployment", "replica")

MEMORY = MemoryMetrics(
    claimed=_of_ledger("claimed_bytes", "gauge", "bytes", "What a replica claims.", *_LEASE),
    measured=_of_ledger("measured_bytes", "gauge", "bytes", "What it had after warm-up.", *_LEASE),
    peak=_of_ledger("peak_bytes", "gauge", "bytes", "The most it has reported.", *_LEASE),
    available=_of_ledger("available_bytes", "gauge", "bytes", "What a device has available."),
    budget=_of_ledger("budget_bytes", "gauge", "bytes", "What of a device may be leased."),
    floor=_of_ledger(
        "floor_bytes",
        "gauge",
        "bytes",
        "Below the `soft` floor new sessions are refused, below the `hard` one engines park.",
        "floor",
    ),
    leases=_of_ledger(
        "leases",
        "gauge",
        "1",
        "Leases of a device: `loading`, `serving` or `parked`.",
        "state",
    ),
    refusals=Metric(
        "speech_memory_refusals_total",
        "counter",
        "1",
        "Leases refused: `full`, `unavailable`, `held`, `overrun`, `unknown`.",
        ("reason",),
        of_replica=False,
    ),
    pressure=_gauge(
        "speech_memory_pressure",
        "1",
        "0, 1 below the soft floor, 2 below the hard one; as a replica sees it.",
        "device",
    ),
)


def declared() -> tuple[Metric, ...]:
    """All metrics, in the order in which they are declared."""
    found: list[Metric] = []
    for group in (TTS, TTS.engine, ASR, ASR.engine, MEMORY):
        values = (getattr(group, field.name) for field in fields(group))
        found += [value for value in values if isinstance(value, Metric)]
    return tuple(found)
