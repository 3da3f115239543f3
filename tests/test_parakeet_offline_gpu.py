"""The offline Parakeet on a GPU: the words of eager float32, by graphs, alone and in parts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("nemo", reason="needs the extra `nemo`")
from tiny_parakeet import babble, restore

from runtime.engines.parakeet.boosting import Boost
from runtime.engines.parakeet.checkpoint import inspect, load
from runtime.engines.parakeet.offline_graphs import Size, ladder
from runtime.engines.parakeet.offline_model import OfflineModel

RATE = 16_000


@pytest.fixture(scope="module")
def model(tiny_parakeet: Callable[..., Path]) -> OfflineModel:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA GPU")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    made = OfflineModel(load(inspect(tiny_parakeet(streaming=False)), "cuda"), 4, 4, 10.0, 40.0)
    made.prepare()
    return made


@pytest.fixture(scope="module")
def nemo(model: OfflineModel, tiny_parakeet: Callable[..., Path]) -> Any:
    """A model of its own: ``transcribe()`` leaves parts of it in training mode."""
    return restore(tiny_parakeet(streaming=False)).to("cuda")


@pytest.mark.gpu
def test_graphs_hear_what_nemo_hears_without_them(model: OfflineModel, nemo: Any) -> None:
    sounds = [babble(seconds, seed=n) for n, seconds in enumerate((0.4, 3.0, 8.0, 10.0))]
    for sound in sounds:
        (told,) = nemo.transcribe([sound], batch_size=1, verbose=False)
        for free in (0, 1 << 40):  # eagerly, and by the graph that holds it
            model.free = free
            (tokens,) = model.recognize([sound])
            assert model.vocabulary.text(tokens.ids) == told.text
    together = model.recognize(sounds)
    assert [t.ids for t in together] == [model.recognize([s])[0].ids for s in sounds]


@pytest.mark.gpu
def test_what_is_longer_than_the_searchs_graph_is_searched_in_parts(
    model: OfflineModel, nemo: Any
) -> None:
    sound = babble(35.0, seed=9)
    (told,) = nemo.transcribe([sound], batch_size=1, verbose=False)
    (tokens,) = model.recognize([sound])
    assert model.vocabulary.text(tokens.ids) == told.text
    assert tokens.starts == sorted(tokens.starts)
    assert tokens.starts[-1] <= 35.0 / 0.08


@pytest.mark.gpu
def test_phrases_are_found_within_a_graph_and_by_their_own_row_alone(model: OfflineModel) -> None:
    sound = babble(3.0, seed=30)
    (plain,) = model.recognize([sound])
    tree = model.trees.tree(Boost(("hello world",), 5.0))
    boosted, other = model.recognize([sound, sound], [tree, None])
    assert "hello" in model.vocabulary.text(boosted.ids)
    assert other.ids == plain.ids


@pytest.mark.gpu
def test_the_searchs_memory_is_given_to_nobody_else(model: OfflineModel) -> None:
    """Once it was torch's to give away: the graph wrote into what others had since."""
    import torch

    sounds = [babble(8.0, seed=n) for n in range(4)]
    before = [tokens.ids for tokens in model.recognize(sounds)]
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    others = [
        torch.full((size,), 7, dtype=torch.uint8, device="cuda")
        for size in (1 << 10, 1 << 16, 1 << 19, 1 << 20, 3 << 20, 11 << 20)
        for _ in range(64)
    ]
    assert [tokens.ids for tokens in model.recognize(sounds)] == before
    tree = model.trees.tree(Boost(("hello world",), 5.0))
    model.recognize(sounds, [tree] * 4)
    torch.cuda.synchronize()
    assert all(bool((other == 7).all()) for other in others)


def test_rows_of_the_ladder_double_and_then_grow_by_half_and_a_third() -> None:
    sizes = ladder(48, 12, 30.0, RATE)
    assert sizes[0].padded == max(size.padded for size in sizes) == 12 * 30 * RATE
    assert {size.rows for size in sizes if size.samples == 10 * RATE} == {
        *(1, 2, 4, 8, 12, 16, 24, 32, 36)
    }
    assert ladder(1, 1, 4.0, RATE) == [Size(1, 4 * RATE)]


def test_the_largest_batches_have_none_as_computing_hides_what_launching_takes() -> None:
    assert ladder(96, 24, 30.0, RATE)[0].padded == 360 * RATE
    assert max(size.samples for size in ladder(4, 1, 600.0, RATE)) == 20 * RATE
