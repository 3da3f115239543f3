"""What only a daemon that serves can show: speech, its latencies, and the memory it came to."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from runtime.accept.latency import latency_table
from runtime.accept.memory import predicted_and_measured
from runtime.accept.section import Section
from runtime.accept.speaking import every_language, round_trip
from runtime.bench.asr import spoken_clips
from runtime.bench.corpus import SENTENCES
from runtime.client import SpeechClient
from runtime.client.ledger import LedgerClient
from runtime.engines.trials.line import Line, skipped
from runtime.errors import SpeechError
from runtime.memory.demands import demands_of, policy_of
from runtime.memory.device import devices, read
from runtime.memory.history import History
from runtime.memory.plan import plan, pools_of
from runtime.memory.table import as_json
from runtime.settings import Settings
from runtime.speech import RecognitionMode


def on_paper(document: dict[str, Any], label: str) -> Section:
    """The plan of a configuration for this machine.

    Raises:
        ConfigError: The configuration does not validate.
    """
    pools = pools_of(devices(read()))
    demands = demands_of(document, label, pools, History.kept_in(Settings()))
    sharing = plan(pools, policy_of(document, label), demands)
    paper = as_json(sharing)
    rows = [
        {key: row[key] for key in ("name", "replicas", "claim_gib", "num_gpus", "slots")}
        for row in paper["deployments"]
    ]
    section = Section("Plan", about="as `speech memory plan`", tables={"Deployments": rows})
    found = f"{paper['headroom_gib']:.2f} GiB of headroom"
    if sharing.fits:
        section.lines.append(Line("the plan", "fits", "pass", found))
    else:
        mend = "; ".join(paper["remedies"])
        section.lines.append(Line("the plan", "fits", "fail", found, mend))
    return section


async def measure(
    settings: Settings,
    streams: Sequence[int],
    utterances: int,
    max_wer: float,
    note: Callable[[str], None],
    done: Callable[[Section], None],
) -> None:
    """Measure a running daemon; a part that fails does not keep the others from being tried.

    Args:
        settings: Of the daemon.
        streams: Streams at once, a row of latencies for each.
        utterances: Of each row.
        max_wer: The most word errors per word of English that pass.
        note: Told what is being done.
        done: Given each part as it is ready.
    """

    async def roles_of(client: SpeechClient) -> set[str]:
        infos = await client.info()
        return {engine.role for info in infos.values() for engine in info.engines}

    async def english(client: SpeechClient) -> Section:
        roles = await roles_of(client)
        known: tuple[RecognitionMode, ...] = ("file", "live")
        modes = [mode for mode in known if mode in roles]
        clips = await spoken_clips(client, SENTENCES[:utterances])
        return await round_trip(client, clips, modes, max_wer)

    async def latency(client: SpeechClient) -> Section:
        return await latency_table(client, streams, utterances, note)

    async def memory(_: SpeechClient) -> Section:
        return predicted_and_measured(await LedgerClient().snapshot())

    parts: dict[str, tuple[set[str], Callable[[SpeechClient], Awaitable[Section]]]] = {
        "Languages": ({"tts"}, every_language),
        "English, there and back": ({"tts", "asr"}, english),
        "Latency": (set(), latency),
        "Memory": (set(), memory),  # last: by then everything has been at its peak
    }
    async with await SpeechClient.connect(settings=settings) as client:
        there = await roles_of(client)
        there |= {"asr"} if there & {"live", "file"} else set()
        for name, (needs, part) in parts.items():
            if missing := needs - there:
                why = f"the configuration has no {' and no '.join(sorted(missing))}"
                done(Section(name, [skipped(name, "measured", why)]))
                continue
            note(f"{name} ...")
            try:
                done(await part(client))
            except SpeechError as error:
                found = f"{type(error).__name__}: {error}"
                done(Section(name, [Line(name, "measured", "fail", found)]))
