"""NVIDIA's own Parakeet: what is said in the clips, and what Magpie says.

For whoever has pulled them: ``speech models pull magpie parakeet parakeet-v3`` and then
``make test ARGS='-m weights'``.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import numpy as np
import pytest

pytest.importorskip("nemo", reason="needs the extra `nemo`")

from runtime.audio import AudioFile, pcm16_to_float32, resample
from runtime.bench.wer import word_error_rate
from runtime.engines import make_recognizer, make_synthesizer
from runtime.engines.parakeet.offline import ParakeetRecognizer
from runtime.errors import CheckpointError
from runtime.requests import resolve_synthesis
from runtime.speech import RecognitionOptions, Samples, SynthesisRequest, Transcript

pytestmark = pytest.mark.weights

Run = Callable[[Coroutine[Any, Any, Any]], Any]
RATE = 16_000
SENTENCES = [
    "Hello, this is a voice that runs beside a language model on one device.",
    "The quick brown fox jumps over the lazy dog.",
    "Please confirm your appointment for next Tuesday at half past three.",
]


@pytest.fixture(scope="module", params=["parakeet-tdt-0.6b-v2", "parakeet-tdt-0.6b-v3"])
def parakeet(request: pytest.FixtureRequest, run: Run) -> Iterator[ParakeetRecognizer]:
    try:
        engine = make_recognizer("parakeet", {"model": request.param, "slots": 4})
    except CheckpointError as error:
        pytest.skip(f"needs NVIDIA's checkpoints: {error}")
    assert isinstance(engine, ParakeetRecognizer)
    run(engine.load())
    run(engine.exercise())
    yield engine
    run(engine.close())


def hear(engine: ParakeetRecognizer, run: Run, samples: Samples, **options: Any) -> Transcript:
    chosen = RecognitionOptions(mode="file", language="en", partials=False, **options)
    transcript: Transcript = run(engine.transcribe(samples, chosen))
    return transcript


def recording(path: Any) -> Samples:
    file = AudioFile.open(path)
    return resample(np.concatenate(list(file.blocks())), file.sample_rate, RATE)


def test_the_clips_are_understood(parakeet: ParakeetRecognizer, clips: list[Any], run: Run) -> None:
    heard = [(clip.text, hear(parakeet, run, recording(clip.path)).text) for clip in clips]
    assert word_error_rate(heard) < 0.06, heard


def test_all_clips_in_a_row_are_the_words_of_each_whatever_the_windows(
    parakeet: ParakeetRecognizer, clips: list[Any], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    pause = np.zeros(RATE, dtype=np.float32)
    row = np.concatenate([part for clip in clips for part in (recording(clip.path), pause)])
    whole = hear(parakeet, run, row)
    assert word_error_rate([(" ".join(clip.text for clip in clips), whole.text)]) < 0.06
    monkeypatch.setattr(parakeet, "_longest", parakeet._window)
    cut = hear(parakeet, run, row, words=True)
    assert word_error_rate([(whole.text, cut.text)]) < 0.03
    assert all(word.end_s <= cut.seconds for word in cut.words)


def test_words_are_where_they_are_said(
    parakeet: ParakeetRecognizer, clips: list[Any], run: Run
) -> None:
    sound = recording(clips[0].path)
    alone = hear(parakeet, run, sound, words=True)
    silence = np.zeros(3 * RATE, dtype=np.float32)
    later = hear(parakeet, run, np.concatenate([silence, sound]), words=True)
    assert [w.text for w in later.words] == [w.text for w in alone.words]
    for one, other in zip(alone.words, later.words, strict=True):
        assert other.start_s - one.start_s == pytest.approx(3.0, abs=0.17)
        assert one.confidence is not None


def test_a_name_that_is_expected_is_spelled_as_expected(
    parakeet: ParakeetRecognizer, clips: list[Any], run: Run
) -> None:
    sound = recording(clips[0].path)
    word = max(hear(parakeet, run, sound).text.split(), key=len).strip(".,?!")
    expected = word[:-1] + ("e" if word[-1] != "e" else "a")
    boosted = hear(parakeet, run, sound, phrases=(expected,), boost=10.0).text
    assert expected in boosted


def test_what_magpie_says_is_understood(parakeet: ParakeetRecognizer, run: Run) -> None:
    try:
        magpie = make_synthesizer("magpie-reference", {"normalizer": "rules"})
    except CheckpointError as error:
        pytest.skip(f"needs NVIDIA's checkpoints: {error}")
    run(magpie.load())

    async def say(text: str) -> bytes:
        request, _ = resolve_synthesis(
            SynthesisRequest(text, language="en", seed=1), magpie.capabilities
        )
        return b"".join([chunk.pcm async for chunk in magpie.synthesize(request)])

    try:
        heard = []
        for text in SENTENCES:
            sound = pcm16_to_float32(run(say(text)))
            sound = resample(sound, magpie.capabilities.sample_rate, RATE)
            heard.append((text, hear(parakeet, run, sound).text))
    finally:
        run(magpie.close())
    assert word_error_rate(heard) < 0.08, heard
