"""Real words do not depend on how their samples arrive."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

pytest.importorskip("moonshine_voice", reason="needs the extra `embedded`")

from runtime.audio import pcm16_to_float32, resample
from runtime.engines.embedded.moonshine import MoonshineRecognizer
from runtime.engines.embedded.stream import Decoded
from runtime.speech import FinalTranscript, RecognitionOptions, Samples

TURN = RecognitionOptions(endpoint_ms=None, partials=False)


def test_blocks_of_any_size_with_any_offset_give_the_words_of_one_push(clips: list[Any]) -> None:
    """20 to 500 ms, boundaries moved by 0 to 70 ms."""
    import soundfile

    clip = next(clip for clip in clips if clip.path.stem == "goforward")
    pcm, rate = soundfile.read(clip.path, dtype="int16")
    samples = resample(pcm16_to_float32(pcm.tobytes()), rate, 16_000)
    engine = MoonshineRecognizer(slots=64)
    decode, decoded = engine._decode, dict[bytes, Decoded]()

    def once(options: RecognitionOptions, segment: Samples) -> Decoded:
        """The model, asked once for the same samples."""
        key = segment.tobytes()
        if key not in decoded:
            decoded[key] = decode(options, segment)
        return decoded[key]

    engine._decode = once  # type: ignore[method-assign]

    async def heard(cuts: list[int]) -> list[str]:
        stream = engine.open(TURN)
        try:
            for start, end in zip([0, *cuts], [*cuts, len(samples)], strict=True):
                await stream.push(samples[start:end])
            await stream.finalize()
            await stream.finish()
            return [e.text async for e in stream.events() if isinstance(e, FinalTranscript)]
        finally:
            await stream.close()

    async def main() -> None:
        try:
            await engine.load()
            whole = await heard([])
            assert len(whole[0].split()) > 2
            for block in (20, 50, 80, 160, 500):
                for offset in range(0, 80, 10):
                    cuts = range(offset * 16 or block * 16, len(samples), block * 16)
                    assert await heard(list(cuts)) == whole, f"{block} ms from {offset} ms"
        finally:
            await engine.close()

    asyncio.run(main())
