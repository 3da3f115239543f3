"""The decoder over slots: NeMo's own codes, whatever the neighbours in the batch do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("nemo", reason="needs the extra `nemo`")

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_magpie import restore

FRAMES = 64  # enough for every chunk that is not the last to come to its end
MAX_TEXT = 96


@pytest.fixture(scope="module")
def nemo(tiny_magpie: Callable[..., Path], tiny_codec: Path) -> Iterator[Callable[..., Any]]:
    """NeMo's own models at temperature 0, by stacking and how readily they end."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    models: dict[Any, Any] = {}

    def model(stacking: int, eos_bias: float) -> Any:
        key = stacking, eos_bias
        if key not in models:
            built = tiny_magpie(stacking=stacking, max_decoder_steps=FRAMES, eos_bias=eos_bias)
            models[key] = restore(built, tiny_codec)
            models[key].inference_parameters.temperature = 0.0
        return models[key]

    yield model
    torch.set_num_threads(threads)


def ids_of(model: Any, seed: int, length: int) -> tuple[int, ...]:
    drawn = np.random.default_rng(seed).integers(0, model.eos_id - 1, length - 1)
    return (*map(int, drawn), int(model.eos_id))


def alone(model: Any, chunks: list[tuple[int, ...]], row: int, cfg: bool) -> list[Any]:
    """Codes of NeMo's loop for the chunks of one text, each ``(codebooks, frames)``."""
    import torch

    state, found = model.create_chunk_state(1), []
    for index, ids in enumerate(chunks):
        model.decoder.reset_cache(use_cache=True)
        with torch.no_grad():
            output = model.generate_speech(
                {
                    "text": torch.tensor([ids]),
                    "text_lens": torch.tensor([len(ids)]),
                    "speaker_indices": [row],
                },
                chunk_state=state,
                end_of_text=[index == len(chunks) - 1],
                beginning_of_text=index == 0,
                use_cfg=cfg,
                use_local_transformer_for_inference=True,
            )
        model.decoder.reset_cache(use_cache=False)
        found.append(output.predicted_codes[0, :, : int(output.predicted_codes_lens[0])].numpy())
    return found


@dataclass
class Speaking:
    """One text on its way through a slot."""

    chunks: list[tuple[int, ...]]
    row: int
    slot: int
    found: list[Any] = field(default_factory=list)
    frames: list[Any] = field(default_factory=list)

    @property
    def done(self) -> bool:
        return len(self.found) == len(self.chunks)

    def begin(self, decoder: Any, model: Any) -> None:
        from runtime.engines.magpie.decoder import Chunk

        context, lengths = model.get_baked_context_embeddings_batch(1, [self.row])
        index = len(self.found)
        chunk = Chunk(
            self.chunks[index],
            context[0, : int(lengths[0])],
            temperature=0.0,
            last=index == len(self.chunks) - 1,
        )
        decoder.begin(self.slot, chunk, carries=index > 0)
        self.frames = []

    def listen(self, decoder: Any, model: Any) -> None:
        """Take the frames of a step; begin the next chunk once this one has ended."""
        self.frames.append(decoder.codes[self.slot].reshape(decoder.stacking, -1).T.numpy().copy())
        steps = len(self.frames)
        ended = int(decoder.ended[self.slot])
        limit = FRAMES // decoder.stacking
        if ended >= steps * decoder.stacking + 1 and steps < limit:
            return
        codes = np.concatenate(self.frames, axis=1)
        self.found.append(codes[:, : min(ended, codes.shape[1])])
        if self.done:
            decoder.free(self.slot)
        else:
            self.begin(decoder, model)


def decoder_of(model: Any, cfg: bool, slots: int = 4) -> Any:
    from runtime.engines.magpie.decoder import Decoder

    steps = FRAMES // model.frame_stacking_factor
    return Decoder(model, slots, max_text=MAX_TEXT, max_steps=steps, cfg=cfg)


def assert_same(found: list[Any], wanted: list[Any]) -> None:
    assert [codes.shape for codes in found] == [codes.shape for codes in wanted]
    for ours, theirs in zip(found, wanted, strict=True):
        assert np.array_equal(ours, theirs)


@pytest.mark.parametrize(
    ("stacking", "cfg", "eos_bias"),
    [(1, True, -100.0), (1, False, -100.0), (2, True, -100.0), (2, False, -100.0), (2, True, 0.0)],
)
def test_codes_are_nemos_for_texts_of_every_length(
    nemo: Callable[..., Any], stacking: int, cfg: bool, eos_bias: float
) -> None:
    model = nemo(stacking, eos_bias)
    decoder = decoder_of(model, cfg)
    lengths = [(6,), (30,), (24, 40), (12, 30, 8)]
    texts = [
        Speaking([ids_of(model, 10 * i + j, n) for j, n in enumerate(length)], i, slot=3 - i)
        for i, length in enumerate(lengths)
    ]
    for text in texts:
        text.begin(decoder, model)
    while not all(text.done for text in texts):
        decoder.step()
        for text in texts:
            if not text.done:
                text.listen(decoder, model)
    for text in texts:
        assert_same(text.found, alone(model, text.chunks, text.row, cfg))
    codes = {int(code) for text in texts for chunk in text.found for code in chunk.ravel()}
    assert len(codes) > 40


@settings(
    max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 3)), min_size=2, max_size=5))
def test_who_joins_and_who_is_cut_off_changes_nobody_elses_codes(
    nemo: Callable[..., Any], arrivals: list[tuple[int, int]]
) -> None:
    """A text through slot 0 while others come into the rest, and leave in mid-chunk."""
    model = nemo(2, -100.0)
    chunks = [ids_of(model, 1, 24), ids_of(model, 2, 40)]
    if "wanted" not in model.__dict__:
        model.__dict__["wanted"] = alone(model, chunks, 2, True)
    decoder = decoder_of(model, True)
    text = Speaking(chunks, 2, slot=0)
    text.begin(decoder, model)
    others: dict[int, Speaking] = {}
    step = 0
    while not text.done:
        for at, slot in arrivals:
            if slot and at == step % 7:
                if slot in others:
                    decoder.free(slot)
                    del others[slot]
                else:
                    others[slot] = Speaking([ids_of(model, step + slot, 9 + step)], slot, slot)
                    others[slot].begin(decoder, model)
        decoder.step()
        text.listen(decoder, model)
        step += 1
    assert_same(text.found, model.__dict__["wanted"])


def test_random_numbers_depend_on_seed_and_step_alone(nemo: Callable[..., Any]) -> None:
    from runtime.engines.magpie.decoder import Chunk

    model = nemo(2, -100.0)
    context, _ = model.get_baked_context_embeddings_batch(1, [0])

    def spoken(slot: int, neighbours: list[int], seed: int = 5) -> Any:
        decoder = decoder_of(model, True)
        chunk = Chunk(ids_of(model, 3, 30), context[0], seed=seed, temperature=0.7)
        decoder.begin(slot, chunk)
        for neighbour in neighbours:
            decoder.begin(neighbour, Chunk(ids_of(model, 4, 20), context[0], seed=9))
        frames = []
        for _ in range(6):
            decoder.step()
            frames.append(decoder.codes[slot].clone())
        return np.stack([frame.numpy() for frame in frames])

    first = spoken(1, [])
    assert np.array_equal(first, spoken(1, []))
    assert np.array_equal(first, spoken(3, [0, 1, 2]))
    assert not np.array_equal(first, spoken(1, [], seed=6))
