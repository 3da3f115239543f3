"""The longest chunk of Magpie's speech, in frames."""

from __future__ import annotations

import pytest

from runtime.engines.magpie.options import MAX_FRAMES, read_reference_options


@pytest.mark.parametrize("stacking", [1, 2])
def test_a_chunk_may_be_as_long_as_the_checkpoint_says(stacking: int) -> None:
    assert read_reference_options({}).frames(MAX_FRAMES, stacking) == 500
    assert read_reference_options({}).frames(41, stacking) == 42 - stacking


@pytest.mark.parametrize(("longest", "frames"), [(8, 172), (23.2, 500), (0.01, 2), (0.1, 2)])
def test_a_shorter_limit_is_whole_steps(longest: float, frames: int) -> None:
    options = read_reference_options({"max_utterance_s": longest})
    assert options.frames(MAX_FRAMES, 2) == frames
