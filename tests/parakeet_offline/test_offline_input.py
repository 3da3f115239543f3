"""The offline Parakeet and sound that is none, or odd."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("nemo", reason="needs the extra `nemo`")
from offline_parakeet import FILE, RATE, Run, together
from tiny_parakeet import babble

from runtime.audio import resample
from runtime.engines import make_recognizer
from runtime.engines.parakeet.offline import ParakeetRecognizer
from runtime.errors import (
    CheckpointError,
)
from runtime.speech import Samples, Transcript


def test_what_is_no_sound_is_read_as_silence_and_the_rest_heard(
    engine: ParakeetRecognizer, run: Run
) -> None:
    sound = babble(3.0, seed=11)
    broken = sound.copy()
    broken[1000:1003] = (np.nan, np.inf, -np.inf)
    mended = sound.copy()
    mended[1000:1003] = 0
    one, other, bystander = run(together(engine, broken, mended, sound))
    assert one == other
    assert bystander.text == run(engine.transcribe(sound, FILE)).text
    nothing = run(engine.transcribe(np.full(RATE, np.nan, dtype=np.float32), FILE))
    assert (nothing.text, nothing.seconds) == ("", 1.0)
    assert run(engine.transcribe(np.zeros(0, dtype=np.float32), FILE)) == Transcript("", 0.0)


def telephone(sound: Samples) -> Samples:
    """300 to 3,400 Hz, at 8 kHz and in eight bits with mu-law (ITU-T G.711)."""
    spectrum = np.fft.rfft(sound)
    pitch = np.fft.rfftfreq(len(sound), 1 / RATE)
    spectrum[(pitch < 300) | (pitch > 3400)] = 0
    narrow = np.fft.irfft(spectrum, len(sound))[::2]
    coded = np.sign(narrow) * np.log1p(255 * np.abs(np.clip(narrow, -1, 1))) / np.log(256)
    coded = np.round(coded * 127) / 127
    heard = np.sign(coded) * (np.power(256, np.abs(coded)) - 1) / 255
    return resample(heard.astype(np.float32), RATE // 2, RATE)


@pytest.mark.parametrize(
    "sound",
    [
        np.full(2 * RATE, 0.5, dtype=np.float32),  # nothing but DC
        np.clip(30 * babble(2.0), -1, 1),
        5.0 * babble(2.0),  # beyond full scale
        1e30 * babble(2.0),
        np.frombuffer(babble(2.0).tobytes(), dtype=np.float32),  # that cannot be written to
        babble(4.0)[::2],
        telephone(babble(2.0)),
    ],
    ids=["dc", "clipped", "loud", "huge", "read-only", "strided", "telephone"],
)
def test_odd_sound_is_recognised_as_what_it_is(
    engine: ParakeetRecognizer, nemo: Any, run: Run, sound: Samples
) -> None:
    heard = run(engine.transcribe(sound, FILE))
    (told,) = nemo.transcribe([np.array(sound)], batch_size=1, verbose=False)
    assert heard.text == told.text
    assert heard.seconds == len(sound) / RATE


def test_a_checkpoint_of_another_kind_is_refused_with_what_runs_it(
    tiny_parakeet: Callable[..., Path], tiny_codec: Path
) -> None:
    streaming = str(tiny_parakeet(streaming=True))
    with pytest.raises(CheckpointError, match="`parakeet-streaming` runs it"):
        make_recognizer("parakeet", {"weights": streaming})
    with pytest.raises(CheckpointError, match="is no Parakeet: it is a AudioCodecModel"):
        make_recognizer("parakeet", {"weights": str(tiny_codec)})
