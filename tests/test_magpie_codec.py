"""The incremental codec: audio made in parts is the audio that NeMo makes at once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("nemo", reason="needs the extra `nemo`")

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

FRAMES = 40


@pytest.fixture(scope="module")
def codec(tiny_codec: Path) -> Any:
    """NeMo's own tiny codec."""
    from runtime.engines.nemo import import_nemo, quietly

    models = import_nemo("nemo.collections.tts.models")
    with quietly():
        return models.AudioCodecModel.restore_from(str(tiny_codec), map_location="cpu").eval()


@pytest.fixture(scope="module")
def codes() -> Any:
    import torch

    generator = torch.Generator().manual_seed(5)
    return torch.randint(0, 2016, (4, 8, FRAMES), generator=generator)


@pytest.fixture(scope="module")
def whole(codec: Any, codes: Any) -> Any:
    """What NeMo makes of each stream at once, shape ``(streams, samples)``."""
    import torch

    with torch.no_grad():
        audio, _ = codec.decode(tokens=codes, tokens_len=torch.full((len(codes),), FRAMES))
    return audio


@pytest.fixture(scope="module")
def make(codec: Any) -> Callable[..., Any]:
    from runtime.engines.magpie.codec import IncrementalCodec

    return lambda slots=4, **options: IncrementalCodec(codec, slots, **options)


@pytest.mark.parametrize("frames", [1, 2, 3, 7, 40])
def test_audio_in_parts_is_the_audio_at_once(
    make: Callable[..., Any], codes: Any, whole: Any, frames: int
) -> None:
    import torch

    incremental, slots = make(), torch.arange(4)
    parts = [
        incremental.decode(slots, codes[:, :, at : at + frames]) for at in range(0, FRAMES, frames)
    ]
    audio = torch.cat(parts, 1)
    assert audio.shape == whole.shape
    assert float((audio - whole).abs().max()) < 1e-5
    assert float(whole.abs().max()) > 1e-3


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(
        st.tuples(st.sets(st.integers(0, 3), min_size=1), st.integers(1, 5), st.integers(0, 2)),
        min_size=1,
        max_size=12,
    )
)
def test_streams_that_come_and_go_do_not_hear_each_other(
    make: Callable[..., Any], codes: Any, whole: Any, steps: list[tuple[set[int], int, int]]
) -> None:
    """Each step continues some streams by some frames, in any order, beside rows for nobody."""
    import torch

    incremental = make()
    at = dict.fromkeys(range(4), 0)
    for streams, frames, fillers in steps:
        rows = sorted(streams, reverse=True)
        for stream in rows:
            if at[stream] + frames > FRAMES:  # it has ended: the next one takes its slot
                at[stream] = 0
                incremental.clear(torch.tensor([stream]))
        slots = torch.tensor(rows + [incremental.spare] * fillers)
        batch = torch.stack(
            [codes[s, :, at[s] : at[s] + frames] for s in rows] + [codes[0, :, :frames]] * fillers
        )
        audio = incremental.decode(slots, batch)
        for row, stream in enumerate(rows):
            wanted = whole[stream, at[stream] * 1024 : (at[stream] + frames) * 1024]
            assert float((audio[row] - wanted).abs().max()) < 1e-5
            at[stream] += frames


def test_a_slot_keeps_the_same_however_many_there_are(make: Callable[..., Any]) -> None:
    import torch

    incremental = make(slots=2)
    assert incremental.samples_per_frame == 1024
    assert incremental.state_bytes == make(slots=8).state_bytes
    assert make(dtype=torch.float16).state_bytes == incremental.state_bytes // 2


def test_another_codec_is_refused(codec: Any) -> None:
    from types import SimpleNamespace

    from runtime.engines.magpie.codec import IncrementalCodec

    other = SimpleNamespace(audio_decoder=object(), vector_quantizer=codec.vector_quantizer)
    with pytest.raises(TypeError, match="CausalHiFiGANDecoder"):
        IncrementalCodec(other, 1)
