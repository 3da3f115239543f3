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
    steps: int = 0

    @property
    def done(self) -> bool:
        return len(self.found) == len(self.chunks)

    def begin(self, decoder: Any, model: Any) -> None:
        begin(decoder, self.entry(decoder, model))

    def entry(self, decoder: Any, model: Any) -> Any:
        from runtime.engines.magpie.decoder import Chunk

        index = len(self.found)
        chunk = Chunk(
            self.chunks[index],
            voice_of(decoder, model, self.row),
            temperature=0.0,
            last=index == len(self.chunks) - 1,
        )
        self.steps = 0
        return decoder.entry(self.slot, chunk, carries=index > 0)

    def listen(self, decoder: Any, model: Any, *, begin_next: bool = True) -> None:
        """Count a step; take the codes of the chunk once it has ended, and begin the next."""
        self.steps += 1
        ended = int(decoder.state.ended[self.slot])
        made, limit = self.steps * model.frame_stacking_factor, FRAMES
        if ended > made and made < limit:
            return
        codes = decoder.state.frames[self.slot, : min(ended, made)]
        self.found.append(codes.T.numpy().copy())
        if begin_next and not self.done:
            self.begin(decoder, model)


def voice_of(decoder: Any, model: Any, row: int) -> Any:
    context, lengths = model.get_baked_context_embeddings_batch(1, [row])
    return decoder.prefill.voice(context[0, : int(lengths[0])])


def begin(decoder: Any, *entries: Any, tokens: int = MAX_TEXT, rows: int = 0) -> None:
    """Fill slots with chunks, as one batch."""
    import torch

    rows = rows or len(entries)
    prefill = decoder.prefill
    voices = [entry.chunk.voice for entry in entries]
    voices += [voices[0]] * (rows - len(entries))
    with torch.no_grad():
        prefill.fill(
            prefill.pack(list(entries), rows, tokens, decoder.spare),
            torch.stack([voice.keys for voice in voices]),
            torch.stack([voice.values for voice in voices]),
            torch.stack([voice.hidden for voice in voices]),
        )


def step(decoder: Any, slots: list[int], rows: int = 0) -> None:
    import torch

    spare = [decoder.spare] * (rows - len(slots))
    decoder.step(torch.tensor([*slots, *spare]))


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
    while speaking := [text for text in texts if not text.done]:
        step(decoder, [text.slot for text in speaking], rows=4)
        for text in speaking:
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
    turn = 0
    while not text.done:
        for at, slot in arrivals:
            if slot and at == turn % 7:
                if slot in others:
                    del others[slot]
                else:
                    others[slot] = Speaking([ids_of(model, turn + slot, 9 + turn)], slot, slot)
                    others[slot].begin(decoder, model)
        step(decoder, [*others, text.slot], rows=4)
        text.listen(decoder, model)
        turn += 1
    assert_same(text.found, model.__dict__["wanted"])


def test_random_numbers_depend_on_seed_and_step_alone(nemo: Callable[..., Any]) -> None:
    from runtime.engines.magpie.decoder import Chunk

    model = nemo(2, -100.0)

    def spoken(slot: int, neighbours: list[int], seed: int = 5) -> Any:
        decoder = decoder_of(model, True)
        voice = voice_of(decoder, model, 0)
        chunk = Chunk(ids_of(model, 3, 30), voice, seed=seed, temperature=0.7)
        begin(decoder, decoder.entry(slot, chunk))
        for neighbour in neighbours:
            other = Chunk(ids_of(model, 4, 20), voice, seed=9)
            begin(decoder, decoder.entry(neighbour, other))
        for _ in range(6):
            step(decoder, [slot, *neighbours])
        return decoder.state.frames[slot, :12].numpy().copy()

    first = spoken(1, [])
    assert np.array_equal(first, spoken(1, []))
    assert np.array_equal(first, spoken(3, [0, 1, 2]))
    assert not np.array_equal(first, spoken(1, [], seed=6))


def test_chunks_that_are_filled_together_speak_as_if_alone(nemo: Callable[..., Any]) -> None:
    """First and later ones, short and long, in one batch that is not full."""
    model = nemo(2, -100.0)
    decoder = decoder_of(model, True)
    texts = [
        Speaking([ids_of(model, i, n) for i, n in enumerate(lengths)], slot, slot)
        for slot, lengths in enumerate([(12, 30), (50,), (24, 8)])
    ]
    texts[0].begin(decoder, model)
    texts[2].begin(decoder, model)
    for text in (texts[0], texts[2]):
        while not text.found:
            step(decoder, [text.slot])
            text.listen(decoder, model, begin_next=False)
    begin(decoder, *(text.entry(decoder, model) for text in texts), rows=4)
    while speaking := [text for text in texts if not text.done]:
        step(decoder, [text.slot for text in speaking], rows=4)
        for text in speaking:
            text.listen(decoder, model)
    for text in texts:
        assert_same(text.found, alone(model, text.chunks, text.row, True))


def test_numbers_that_are_none_end_their_slot_and_no_other(nemo: Callable[..., Any]) -> None:
    from runtime.engines.magpie.state import BROKEN

    model = nemo(2, -100.0)
    decoder = decoder_of(model, True)
    texts = [Speaking([ids_of(model, 1, 30)], 1, slot) for slot in (0, 1)]
    for text in texts:
        text.begin(decoder, model)
    decoder.state.cross_values[:, 0] = float("nan")
    while not texts[1].done:
        step(decoder, [0, 1])
        texts[1].listen(decoder, model)
    assert int(decoder.state.ended[0]) == BROKEN
    assert_same(texts[1].found, alone(model, texts[1].chunks, 1, True))
    decoder.state.forget(0)  # or the next text would see them behind its own
    following = Speaking([ids_of(model, 2, 12)], 1, 0)
    following.begin(decoder, model)
    while not following.done:
        step(decoder, [0])
        following.listen(decoder, model)
    assert_same(following.found, alone(model, following.chunks, 1, True))
