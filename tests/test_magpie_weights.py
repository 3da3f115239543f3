"""NVIDIA's own checkpoints: every language is spoken, and English is understood.

For whoever has pulled them: ``speech models pull magpie parakeet-v3`` and then
``make test ARGS='-m weights'``. Speech goes from Magpie to Parakeet and back into words.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

pytest.importorskip("nemo", reason="needs the extra `nemo`")

from runtime.audio import pcm16_to_float32, resample
from runtime.bench.wer import word_errors
from runtime.engines.magpie.reference import MagpieReference
from runtime.engines.nemo import import_nemo, quietly
from runtime.errors import CheckpointError
from runtime.models.store import path_of
from runtime.requests import resolve_synthesis
from runtime.speech import SynthesisRequest

pytestmark = pytest.mark.weights

ENGLISH = [
    "Hello, this is a voice that runs beside a language model on one device.",
    "The quick brown fox jumps over the lazy dog.",
    "Please confirm your appointment for next Tuesday at half past three.",
    "Your order has been shipped and will arrive within two working days.",
]
OTHERS = {
    "es": "Por favor, confirme su cita para el próximo martes.",
    "de": "Bitte bestätigen Sie Ihren Termin für nächsten Dienstag.",
    "fr": "Veuillez confirmer votre rendez-vous pour mardi prochain.",
    "vi": "Vui lòng xác nhận cuộc hẹn của bạn vào thứ Ba tới.",
    "it": "Si prega di confermare il suo appuntamento per martedì prossimo.",
    "zh": "请确认您下周二的预约。",
    "hi": "कृपया अगले मंगलवार के लिए अपनी नियुक्ति की पुष्टि करें।",
    "ja": "来週の火曜日のご予約を確認してください。",
}


@pytest.fixture(scope="module")
def magpie() -> Iterator[MagpieReference]:
    try:
        engine = MagpieReference(normalizer="rules")
    except CheckpointError as error:
        pytest.skip(f"needs NVIDIA's checkpoints: {error}")
    asyncio.run(engine.load())
    yield engine
    asyncio.run(engine.close())


@pytest.fixture(scope="module")
def parakeet() -> Any:
    """NeMo's own recognizer on Parakeet's checkpoint."""
    try:
        weights = path_of("parakeet-tdt-0.6b-v3")
    except CheckpointError as error:
        pytest.skip(f"needs NVIDIA's checkpoints: {error}")
    models = import_nemo("nemo.collections.asr.models")
    with quietly():
        return models.ASRModel.restore_from(str(weights)).eval()


def spoken(engine: MagpieReference, text: str, language: str) -> np.ndarray[Any, Any]:
    request, _ = resolve_synthesis(
        SynthesisRequest(text, language=language, seed=1), engine.capabilities
    )

    async def read() -> bytes:
        return b"".join([chunk.pcm async for chunk in engine.synthesize(request)])

    return pcm16_to_float32(asyncio.run(read()))


@pytest.mark.parametrize("language", OTHERS)
def test_every_language_of_the_checkpoint_sounds(magpie: MagpieReference, language: str) -> None:
    if language not in magpie.capabilities.languages:
        pytest.skip(f"the checkpoint speaks {', '.join(magpie.capabilities.languages)}")
    samples = spoken(magpie, OTHERS[language], language)
    seconds = len(samples) / magpie.capabilities.sample_rate
    assert 1.0 < seconds < 15.0
    assert float(np.sqrt(np.mean(samples**2))) > 0.01


def test_english_is_understood_by_parakeet(magpie: MagpieReference, parakeet: Any) -> None:
    wrong = said = 0
    for text in ENGLISH:
        samples = spoken(magpie, text, "en")
        heard = resample(samples, magpie.capabilities.sample_rate, 16_000)
        with quietly():
            (transcript,) = parakeet.transcribe([heard], verbose=False)
        errors, words = word_errors(text, transcript.text)
        wrong, said = wrong + errors, said + words
    assert wrong / said < 0.10
