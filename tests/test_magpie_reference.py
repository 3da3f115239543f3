"""Magpie as NeMo runs it: the same codes and samples, whatever way the engine gets there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("nemo", reason="needs the extra `nemo`")

from magpie_speaking import BUILT, ONE, THREE, Spy, speak
from tiny_magpie import SPEAKERS, restore

from runtime.audio import float32_to_pcm16
from runtime.engines.magpie.reference import MagpieReference
from runtime.speech import Samples


def nemo_codes(
    model: Any, chunks: list[list[list[int]]], rows: list[int], cfg: bool
) -> list[list[np.ndarray[Any, Any]]]:
    """Codes of NeMo's own loop: ``chunks`` of a batch, each with the ids of every item."""
    import torch

    state = model.create_chunk_state(len(rows))
    found: list[list[np.ndarray[Any, Any]]] = [[] for _ in rows]
    for index, batch in enumerate(chunks):
        lengths = torch.tensor([len(ids) for ids in batch])
        text = torch.nn.utils.rnn.pad_sequence([torch.tensor(ids) for ids in batch], True)
        model.decoder.reset_cache(use_cache=True)
        with torch.no_grad():
            output = model.generate_speech(
                {"text": text, "text_lens": lengths, "speaker_indices": rows},
                chunk_state=state,
                end_of_text=[index == len(chunks) - 1] * len(rows),
                beginning_of_text=index == 0,
                use_cfg=cfg,
                use_local_transformer_for_inference=True,
            )
        model.decoder.reset_cache(use_cache=False)
        for item, frames in enumerate(output.predicted_codes_lens.tolist()):
            found[item].append(output.predicted_codes[item, :, :frames].numpy())
    return found


@pytest.fixture(scope="module")
def nemo(tiny_magpie: Callable[..., Path], tiny_codec: Path) -> Callable[[int], Any]:
    """NeMo's own model at temperature 0, by stacking."""
    models: dict[int, Any] = {}

    def model(stacking: int) -> Any:
        if stacking not in models:
            models[stacking] = restore(tiny_magpie(stacking=stacking, **BUILT), tiny_codec)
            models[stacking].inference_parameters.temperature = 0.0
            for tokenizer in models[stacking].tokenizer.tokenizers.values():
                if hasattr(tokenizer, "g2p") and hasattr(tokenizer.g2p, "phoneme_probability"):
                    tokenizer.g2p.phoneme_probability = 1.0
        return models[stacking]

    return model


@pytest.mark.parametrize("cfg", [True, False])
@pytest.mark.parametrize("stacking", [1, 2])
@pytest.mark.parametrize("text", [ONE, THREE], ids=["one", "three"])
def test_codes_and_samples_are_those_of_nemos_own_loop(
    magpie_engine: Callable[..., MagpieReference],
    nemo: Callable[[int], Any],
    monkeypatch: pytest.MonkeyPatch,
    stacking: int,
    cfg: bool,
    text: str,
) -> None:
    import torch

    engine, model = magpie_engine(stacking, cfg=cfg, temperature=0.0), nemo(stacking)
    spy = Spy(engine, monkeypatch)
    heard: list[Samples] = []

    def noted(samples: Samples) -> bytes:
        heard.append(samples)
        return float32_to_pcm16(samples)

    monkeypatch.setattr("runtime.engines.magpie.reference.float32_to_pcm16", noted)
    speak(engine, text, voice="Leo", seed=1)
    sentences = [sentence.strip() + "." for sentence in text.rstrip(".").split(".")]
    ids = [
        [*model.tokenizer.encode(sentence, tokenizer_name="english_phoneme"), model.eos_id]
        for sentence in sentences
    ]
    assert [chunk[0] for chunk in spy.ids] == [chunk[0] for chunk in ids]
    (codes,) = nemo_codes(model, [[chunk] for chunk in ids], [SPEAKERS[stacking]["Leo"]], cfg)
    assert len(spy.codes) == len(codes) == len(sentences)
    for ours, theirs in zip(spy.codes, codes, strict=True):
        assert np.array_equal(ours, theirs)
    assert len({int(code) for chunk in codes for code in chunk.ravel()}) > 30
    together = torch.tensor(np.concatenate(codes, axis=1))[None]
    with torch.no_grad():
        audio, _ = model._codec_model.decode(
            tokens=together, tokens_len=torch.tensor([together.shape[-1]])
        )
    ours = np.concatenate(heard)
    assert len(ours) == audio.shape[-1]
    assert float(np.abs(ours - audio[0].numpy()).max()) < 1e-5


@pytest.mark.parametrize("cfg", [True, False])
@pytest.mark.parametrize("chunks", [1, 3], ids=["one", "three"])
@pytest.mark.parametrize("stacking", [1, 2])
def test_codes_are_those_that_nemo_gives_three_callers_at_once(
    magpie_engine: Callable[..., MagpieReference],
    nemo: Callable[[int], Any],
    monkeypatch: pytest.MonkeyPatch,
    stacking: int,
    chunks: int,
    cfg: bool,
) -> None:
    engine, model = magpie_engine(stacking, cfg=cfg, temperature=0.0), nemo(stacking)
    # In a batch NeMo goes on following the text of an item whose chunk has ended, and takes the
    # history of a shorter text from its padding: the next chunk is then another than alone. Here
    # all chunks go on to the last frame, and later ones follow texts of one length.
    assert engine._magpie is not None
    for endless in (engine._magpie.model, model):
        monkeypatch.setattr(endless.chunked_inference_config, "forceful_chunk_end_threshold", 10**6)
    texts = ["Hello world.", "This is a test.", "To the text."] if chunks == 1 else [ONE] * 3
    voices = ["Aria", "John", "Sofia"]
    ours = []
    for text, voice in zip(texts, voices, strict=True):
        with pytest.MonkeyPatch.context() as patch:
            spy = Spy(engine, patch)
            speak(engine, " ".join([text] * chunks), voice=voice, seed=1)
        ours.append(spy.codes)
    ids = [
        [*model.tokenizer.encode(text, tokenizer_name="english_phoneme"), model.eos_id]
        for text in texts
    ]
    theirs = nemo_codes(model, [ids] * chunks, [SPEAKERS[stacking][v] for v in voices], cfg)
    for own, batched in zip(ours, theirs, strict=True):
        assert len(own) == len(batched) == chunks
        for a, b in zip(own, batched, strict=True):
            assert np.array_equal(a, b)
