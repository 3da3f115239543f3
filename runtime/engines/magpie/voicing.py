"""Voices of a checkpoint: rows of its table of context embeddings, and weighted sums of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from runtime.errors import InvalidRequest
from runtime.speech import Voice
from runtime.voices import Blend, find_voice, is_blend, parse_blend


class Voicing:
    """Finds the row of a voice; a blend gets one of its own, in place of the blend before."""

    def __init__(
        self,
        speakers: tuple[str, ...],
        languages: tuple[str, ...],
        blends: Mapping[str, Blend],
    ) -> None:
        """Take the names of the rows, in their order, and named blends of them."""
        self._speakers = speakers
        self._blends = dict(blends)
        self._languages = languages
        self._model: Any = None
        self._blended = ""  # what the last row holds

    @property
    def voices(self) -> tuple[Voice, ...]:
        """All that have a name; each speaks all languages of the checkpoint."""
        baked = [Voice(name, self._languages) for name in self._speakers]
        named = [Voice(name, self._languages, str(blend)) for name, blend in self._blends.items()]
        return (*baked, *named)

    def contexts(self, model: Any) -> dict[str, Any]:
        """The context of each baked voice, shape ``(places, d)``, by name."""
        table = model.baked_context_embedding.weight.detach()
        width = int(model._baked_embedding_D)
        lengths = model.baked_context_embedding_len
        return {
            name: table[row].view(-1, width)[: int(lengths[row])]
            for row, name in enumerate(self._speakers)
        }

    def mix(self, voice: str, contexts: Mapping[str, Any]) -> Any:
        """The context of a voice, or of a blend.

        Raises:
            UnknownVoice: There is no such voice.
            InvalidRequest: Not a blend, or one of voices whose contexts differ in length.
        """
        blend = self._resolve(voice)
        parts = [(contexts[name], weight) for name, weight in blend.parts]
        if len(parts) == 1:
            return parts[0][0]
        if len({len(context) for context, _ in parts}) > 1:
            raise InvalidRequest(
                f"Voices in {blend} have contexts of different lengths and cannot be blended."
            )
        mixed = sum(context.float() * weight for context, weight in parts)
        return mixed.to(parts[0][0].dtype)

    def attach(self, model: Any) -> None:
        """Give NeMo's model one row more, for blends."""
        import torch

        table = model.baked_context_embedding.weight
        lengths = model.baked_context_embedding_len
        larger = torch.nn.Embedding(table.shape[0] + 1, table.shape[1], dtype=table.dtype)
        larger.weight.requires_grad_(False)
        larger.to(table.device)
        with torch.no_grad():
            larger.weight[:-1] = table
            larger.weight[-1] = table[0]
        model.baked_context_embedding = larger
        model.baked_context_embedding_len = torch.cat([lengths, lengths[:1]])
        self._model, self._blended = model, ""

    def detach(self) -> None:
        """Let go of the model."""
        self._model = None

    def row(self, voice: str) -> int:
        """The row that speaks as ``voice``: a name, or a blend.

        Raises:
            UnknownVoice: There is no such voice.
            InvalidRequest: Not a blend, or one of voices whose contexts differ in length.
        """
        blend = self._resolve(voice)
        if len(blend.parts) == 1:
            return self._speakers.index(blend.parts[0][0])
        return self._blend(blend)

    def _resolve(self, voice: str) -> Blend:
        """In terms of baked voices."""
        if not is_blend(voice):
            name = find_voice(voice, (*self._speakers, *self._blends))
            return self._blends.get(name) or Blend(((name, 1.0),))
        weights: dict[str, float] = {}
        for name, weight in parse_blend(voice, (*self._speakers, *self._blends)).parts:
            for baked, share in self._resolve(name).parts:
                weights[baked] = weights.get(baked, 0.0) + weight * share
        return Blend(tuple(weights.items()))

    def _blend(self, blend: Blend) -> int:
        import torch

        table = self._model.baked_context_embedding.weight
        lengths = self._model.baked_context_embedding_len
        last = int(table.shape[0]) - 1
        if self._blended != str(blend):
            rows = [self._speakers.index(name) for name, _ in blend.parts]
            if len({int(lengths[row]) for row in rows}) > 1:
                raise InvalidRequest(
                    f"Voices in {blend} have contexts of different lengths and cannot be blended."
                )
            with torch.no_grad():
                weights = torch.tensor([w for _, w in blend.parts], device=table.device)
                table[last] = (table[rows].float() * weights[:, None]).sum(0).to(table.dtype)
                lengths[last] = lengths[rows[0]]
            self._blended = str(blend)
        return last
