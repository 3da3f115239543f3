"""The reference engine of Magpie behind the ``Synthesizer`` contract."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("nemo", reason="needs the extra `nemo`")

from magpie_speaking import BUILT, FRAMES, ONE, THREE, Spy, pcm, speak
from tiny_magpie import SPEAKERS
from tiny_tongues import LANGUAGES, SENTENCES

from runtime.engines import make_synthesizer
from runtime.engines.magpie.options import CODEC_CONTEXT
from runtime.engines.magpie.reference import MagpieReference
from runtime.errors import ConfigError, InvalidRequest, UnknownVoice
from runtime.requests import resolve_synthesis
from runtime.speech import SynthesisRequest


def test_every_language_is_spoken_with_its_own_tokens(
    magpie_engine: Callable[..., MagpieReference], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = magpie_engine(2)
    assert sorted(engine.capabilities.languages) == sorted(LANGUAGES)
    spoken = {}
    for language in LANGUAGES:
        with pytest.MonkeyPatch.context() as patch:
            spy = Spy(engine, patch)
            chunks = speak(engine, SENTENCES[language], language=language, seed=1)
        assert chunks[-1].next_sample >= 22_050 / 2
        spoken[language] = tuple(token for ids in spy.ids for token in ids)
    assert len(set(spoken.values())) == len(LANGUAGES)


def test_every_voice_sounds_different_and_names_ignore_case(
    magpie_engine: Callable[..., MagpieReference],
) -> None:
    engine = magpie_engine(2)
    names = [voice.name for voice in engine.capabilities.voices]
    assert names == sorted(SPEAKERS[2], key=SPEAKERS[2].__getitem__)
    heard = {pcm(speak(engine, ONE, voice=name.upper(), seed=1)) for name in names}
    assert len(heard) == len(names)


def test_a_blend_is_between_its_voices(magpie_engine: Callable[..., MagpieReference]) -> None:
    engine = magpie_engine(2)
    blend = pcm(speak(engine, ONE, voice="aria:0.7+leo:0.3", seed=1))
    assert blend == pcm(speak(engine, ONE, voice="LEO:0.3+Aria:0.7", seed=1))
    assert blend not in {pcm(speak(engine, ONE, voice=name, seed=1)) for name in ("Aria", "Leo")}
    # All but one voice: that voice.
    nearly = engine._voicing.row("aria:0.9995+leo:0.0005")
    assert engine._magpie is not None
    table = engine._magpie.model.baked_context_embedding.weight
    aria = table[SPEAKERS[2]["Aria"]]
    assert float((table[nearly] - aria).abs().max()) < 1e-2 * float(aria.abs().max())


@pytest.mark.parametrize(
    ("voice", "error", "says"),
    [
        ("Dora", UnknownVoice, "voices: Aria, Jason"),
        ("aria:0.7+leo:0.7", InvalidRequest, "sum to 1.4"),
        ("aria:0.7+dora:0.3", UnknownVoice, "no voice 'dora'"),
    ],
)
def test_a_voice_there_is_not_is_refused(
    magpie_engine: Callable[..., MagpieReference], voice: str, error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        speak(magpie_engine(2), ONE, voice=voice)


def test_a_seed_repeats_a_piece_whichever_piece_a_request_starts_with(
    magpie_engine: Callable[..., MagpieReference],
) -> None:
    engine = magpie_engine(2, carry=2)
    text = " ".join([ONE] * 5)
    whole = speak(engine, text, seed=7)
    assert pcm(whole) == pcm(speak(engine, text, seed=7))
    assert pcm(whole) != pcm(speak(engine, text, seed=8))
    for piece in (1, 2, 3):
        resumed = speak(engine, text, seed=7, first_piece=piece)
        assert resumed[0].first_sample == 0
        assert resumed[0].piece == piece
        assert pcm(resumed) == pcm(whole, since=piece)


def test_chunks_are_contiguous_and_every_piece_ends(
    magpie_engine: Callable[..., MagpieReference],
) -> None:
    chunks = speak(magpie_engine(2), THREE, seed=1)
    position = 0
    for chunk in chunks:
        assert chunk.first_sample == position
        position = chunk.next_sample
    assert [chunk.piece for chunk in chunks if chunk.piece_end] == [0, 1, 2]
    assert [chunk.end for chunk in chunks] == [False] * (len(chunks) - 1) + [True]


def test_pieces_that_carry_nothing_over_are_a_pause_apart(
    magpie_engine: Callable[..., MagpieReference],
) -> None:
    apart, together = magpie_engine(2, carry=1, pause_s=0.5), magpie_engine(2, carry=1, pause_s=0.0)
    text = f"{ONE} {ONE}"
    longer = len(pcm(speak(apart, text, seed=1))) - len(pcm(speak(together, text, seed=1)))
    assert longer == 2 * round(0.5 * 22_050)  # random weights end loudly
    assert len(pcm(speak(apart, ONE, seed=1))) == len(pcm(speak(together, ONE, seed=1)))


def test_a_caller_that_leaves_frees_the_model_within_a_step(
    magpie_engine: Callable[..., MagpieReference],
) -> None:
    engine = magpie_engine(2)
    assert engine._magpie is not None
    steps: list[int] = []

    async def listen() -> None:
        loop, begun = asyncio.get_running_loop(), asyncio.Event()

        def step(*_: object) -> None:
            steps.append(1)
            if len(steps) == 3:
                loop.call_soon_threadsafe(begun.set)

        assert engine._magpie is not None
        hook = engine._magpie.model.decoder.register_forward_pre_hook(step)
        request, _ = resolve_synthesis(SynthesisRequest(THREE), engine.capabilities)
        try:
            async with aclosing(engine.synthesize(request)) as chunks:
                reading = asyncio.ensure_future(anext(chunks))
                await begun.wait()
                reading.cancel()
                await asyncio.wait([reading])
            await engine.exercise()  # waits for its turn: the model is free
        finally:
            hook.remove()

    before = engine.counts["chunks_cut_short"]
    asyncio.run(listen())
    alone = FRAMES // 2
    assert alone < len(steps) < alone + FRAMES // 2
    assert engine.counts["chunks_cut_short"] == before
    assert pcm(speak(engine, ONE, seed=1))  # and nothing is left behind in its caches


def test_what_is_done_to_a_text_is_counted(magpie_engine: Callable[..., MagpieReference]) -> None:
    engine = magpie_engine(2)
    before = engine.counts
    speak(engine, "Hello 7 world.", seed=1)
    speak(engine, "A.", seed=1)
    after = engine.counts
    assert after["characters_removed"] == before["characters_removed"] + 1
    assert after["tokens_padded"] > before["tokens_padded"]
    assert after["chunks_cut_short"] == before["chunks_cut_short"] + 2  # they never end


def test_numbers_are_spoken_where_the_rules_normalise(
    magpie_engine: Callable[..., MagpieReference], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = magpie_engine(2, normalizer="rules")
    spy = Spy(engine, monkeypatch)
    speak(engine, "One 1.", seed=1)
    assert engine.counts["characters_removed"] == 0
    written, spoken = spy.ids[0], speak(engine, "One one.", seed=1)
    assert spoken
    assert written == spy.ids[1]


def test_a_text_of_any_length_is_cut_into_chunks_that_fit(
    magpie_engine: Callable[..., MagpieReference], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = magpie_engine(2)
    spy = Spy(engine, monkeypatch)
    chunks = speak(engine, "hello world this is a test of the text " * 2, seed=1)
    assert len(spy.ids) > 3
    assert chunks[-1].next_sample == sum(codes.shape[1] for codes in spy.codes) * 1024


def test_chunks_are_decoded_with_enough_of_what_was_before(
    magpie_engine: Callable[..., MagpieReference],
) -> None:
    import torch

    engine = magpie_engine(2)
    assert engine._magpie is not None
    codec = engine._magpie.model._codec_model
    codes = torch.randint(0, 2016, (1, 8, 90), generator=torch.Generator().manual_seed(1))

    def decoded(part: Any) -> Any:
        length = torch.tensor([part.shape[-1]])
        with torch.no_grad():
            return codec.decode(tokens=part, tokens_len=length)[0][0]

    whole, tail = decoded(codes), decoded(codes[:, :, 60 - CODEC_CONTEXT :])
    new = 30 * 1024
    assert float((whole[-new:] - tail[-new:]).abs().max()) < 1e-5
    short = decoded(codes[:, :, 60 - 4 :])
    assert float((whole[-new:] - short[-new:]).abs().max()) > 1e-4


def test_a_chunk_goes_through_the_codec_in_windows_that_nobody_hears(
    magpie_engine: Callable[..., MagpieReference], monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once = np.frombuffer(pcm(speak(magpie_engine(2), ONE, seed=1)), "<i2").astype(int)
    monkeypatch.setattr("runtime.engines.magpie.reference.CODEC_WINDOW", 7)
    windows = np.frombuffer(pcm(speak(magpie_engine(2), ONE, seed=1)), "<i2").astype(int)
    assert len(windows) == len(at_once)
    assert np.abs(windows - at_once).max() <= 1  # of 32,768


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_lower_precision_speaks_too(
    magpie_engine: Callable[..., MagpieReference], dtype: str
) -> None:
    assert speak(magpie_engine(2, dtype=dtype), ONE, seed=1)[-1].next_sample == FRAMES * 1024


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"slots": 2}, "one utterance at a time"),
        ({"temperature": -1}, "temperature"),
        ({"carry": 0}, "carry"),
        ({"device": "tpu"}, "device"),
        ({"pauses": 1}, "Did you mean 'pause_s'"),
    ],
)
def test_options_that_cannot_be_are_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        make_synthesizer("magpie-reference", options)


def test_closing_frees_the_model_and_loading_again_brings_it_back(
    tiny_magpie: Callable[..., Path], tiny_codec: Path
) -> None:
    weights = str(tiny_magpie(stacking=2, **BUILT))
    engine = MagpieReference(weights=weights, codec=str(tiny_codec), normalizer="off", device="cpu")
    report = asyncio.run(engine.load())
    assert report.details["geometry"].startswith("stacking 2")
    assert report.details["normalizer"] == "off"
    asyncio.run(engine.close())
    assert engine._magpie is None


def test_a_group_that_ends_without_sound_ends_with_what_was_said_before(
    magpie_engine: Callable[..., MagpieReference], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = magpie_engine(2, carry=2, pause_s=0.5)
    assert engine._magpie is not None
    asked: list[bool] = []
    generate = engine._magpie.model.generate_speech

    def noted(batch: Any, **options: Any) -> Any:
        asked.append(options["end_of_text"][0])
        return generate(batch, **options)

    monkeypatch.setattr(engine._magpie.model, "generate_speech", noted)
    chunks = speak(engine, f"{ONE} \u4f60\u597d\u3002 {ONE}", seed=1)
    assert asked == [True, True]
    frames = 2 * FRAMES * 1024
    assert chunks[-1].next_sample == frames + round(0.5 * 22_050)
