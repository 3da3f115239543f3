"""From spoken text to token ids: one tokeniser per language, deterministic, nothing silent.

NeMo's tokenisers skip characters they do not know with a line in a log, draw at random
whether a word is pronounced or spelled, and read a language they lack with the English
one. Here what cannot be spoken is taken out before and counted, words are always
pronounced, and a language that the checkpoint lacks is refused.
"""

# The quotes and dashes below are the subject, not typos.
# ruff: noqa: RUF001

from __future__ import annotations

import logging
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from runtime.errors import UnknownLanguage
from runtime.speakable import is_cjk

MIN_TOKENS = 6
"""Fewest tokens of a chunk, its end included. Shorter ones come out garbled or said twice
(NVIDIA-NeMo/Speech issue 15300); NVIDIA's own C++ server (NVIDIA/NeMo-Speech.cpp,
``pad_short_text_chunk_before_eos``) puts padding after the first token up to this many."""

# Marks that tokenisers lack, as they are read: pauses and quotes.
_FOLDED = {
    "“": '"', "”": '"', "„": '"', "«": '"', "»": '"', "‟": '"', "‘": "'", "’": "'", "‚": "'",
    "‛": "'", "`": "'", "´": "'", "—": ", ", "–": ", ", "―": ", ", "‐": "-", "‑": "-", "…": "...",
    "·": " ", "•": ", ", "/": " ", "\u00a0": " ", "\n": " ", "\t": " ",
}  # fmt: skip
_CODE = frozenset("|<>")  # what lies between is taken for phonemes, or for a special token


@dataclass(frozen=True, slots=True)
class Tokens:
    """A chunk of text as the model reads it.

    Attributes:
        ids: Token ids, the end of text last.
        text: What of the text was tokenised.
        removed: How many characters could not be spoken and were left out.
        padded: How many tokens of padding were put in.
    """

    ids: tuple[int, ...]
    text: str
    removed: int
    padded: int


class FrontEnd:
    """The tokenisers of a checkpoint, made deterministic."""

    def __init__(self, tokenizer: Any, languages: Sequence[tuple[str, str]], eos_id: int) -> None:
        """Take NeMo's ``AggregatedTTSTokenizer``, and which of its tokenisers speaks what."""
        self._tokenizer = tokenizer
        self._names = dict(languages)
        self.eos_id = eos_id
        self._speaks: dict[str, Callable[[str], bool]] = {}
        for single in tokenizer.tokenizers.values():
            g2p = getattr(single, "g2p", None)
            if g2p is not None and getattr(g2p, "phoneme_probability", None) is not None:
                # set_phone_prob() is a context manager: called alone it does nothing.
                g2p.phoneme_probability = 1.0
        logging.getLogger("jieba").setLevel(logging.WARNING)
        for language in self._names:  # some read their word lists at the first word
            self.tokenize("a", language)

    @property
    def languages(self) -> tuple[str, ...]:
        """Those that can be tokenised."""
        return tuple(self._names)

    def tokenize(self, text: str, language: str) -> Tokens:
        """Tokenise a chunk of normalised text.

        The result of a text is always the same. Nothing to speak gives no ids at all.

        Raises:
            UnknownLanguage: The checkpoint has no tokeniser for it.
        """
        if language not in self._names:
            raise UnknownLanguage(
                f"The checkpoint has no tokeniser for {language!r}; it speaks: "
                f"{', '.join(self._names)}."
            )
        name = self._names[language]
        kept, removed = self._clean(text, name)
        if not any(map(str.isalnum, kept)):
            return Tokens((), kept, removed, 0)
        ids = [int(token) for token in self._tokenizer.encode(text=kept, tokenizer_name=name)]
        if not self._sounds(ids, name):  # a syllable that the dictionary does not have
            return Tokens((), kept, removed + len(kept), 0)
        ids.append(self.eos_id)
        padded = max(0, MIN_TOKENS - len(ids))
        ids[1:1] = [self._tokenizer.tokenizer_pad_ids[name]] * padded
        return Tokens(tuple(ids), kept, removed, padded)

    def _sounds(self, ids: Sequence[int], name: str) -> bool:
        """Whether any token is more than a space or a mark."""
        tokenizer, offset = (
            self._tokenizer.tokenizers[name],
            self._tokenizer.tokenizer_offsets[name],
        )
        if hasattr(tokenizer, "get_vocab"):
            return bool(ids)
        tokens = (str(tokenizer.tokens[token - offset]) for token in ids)
        return any(any(map(str.isalnum, token)) for token in tokens)

    def _clean(self, text: str, name: str) -> tuple[str, int]:
        speaks = self._speaks.get(name)
        if speaks is None:
            speaks = self._speaks[name] = speakable_by(self._tokenizer.tokenizers[name])
        kept: list[str] = []
        removed = 0
        for character in unicodedata.normalize("NFC", text):
            written = _written(character, speaks)
            if written is None:
                removed += 1
                written = " "
            kept.append(written)
        return " ".join("".join(kept).split()), removed


def speakable_by(tokenizer: Any) -> Callable[[str], bool]:
    """Tell which characters a tokeniser of NeMo, or of transformers, turns into tokens."""
    if hasattr(tokenizer, "get_vocab"):  # ByT5: bytes, whatever they spell
        return lambda character: character not in _CODE
    prefix = getattr(getattr(tokenizer, "g2p", None), "grapheme_prefix", "") or ""
    tokens = {str(token).removeprefix(prefix) for token in tokenizer.tokens}
    letters = {token for token in tokens if len(token) == 1} | _dictionary_letters(tokenizer)
    single = {form for letter in letters for form in (letter, letter.lower(), letter.upper())}
    single -= _CODE
    by_sound = any(kind in type(tokenizer).__name__ for kind in ("Chinese", "Japanese"))
    if "Japanese" in type(tokenizer).__name__:
        single |= set("0123456789")  # OpenJTalk reads numbers; 0 and 1 are pitches among the tokens
    return lambda c: c in single or c.isspace() or (by_sound and is_cjk(c) and c.isalnum())


def _dictionary_letters(tokenizer: Any) -> set[str]:
    """Letters of the words that a tokeniser's dictionary can pronounce."""
    words = getattr(getattr(tokenizer, "g2p", None), "phoneme_dict", None)
    return {letter for word in words for letter in word} if isinstance(words, dict) else set()


def _written(character: str, speaks: Callable[[str], bool]) -> str | None:
    """The character, or what is read in its place: a plain mark, a letter without its accent."""
    if speaks(character):
        return character
    if character in _FOLDED:
        folded = _FOLDED[character]
        return folded if all(map(speaks, folded)) else " "
    base = unicodedata.normalize("NFKD", character)
    base = "".join(c for c in base if not unicodedata.combining(c))
    if base and base != character and all(map(speaks, base)):
        return base
    return None
