"""An LLM's tokens gathered to what can be spoken: sentences, or clauses when time presses."""

from __future__ import annotations

import re
from collections.abc import Callable

from pipecat.utils.text.base_text_aggregator import Aggregation, TextType
from pipecat.utils.text.simple_text_aggregator import SimpleTextAggregator

from runtime.text import CLAUSE_END

_LEAST = 10  # letters and digits: "Well," alone would be over before the rest has been spoken
_WORD_CHARACTER = re.compile(r"[^\W_]")


class ClauseAggregator(SimpleTextAggregator):
    """Gives sentences as Pipecat finds them, and clauses while ``hurried()`` is true.

    A sentence is spoken better as a whole: a clause is cut off only where the listener would
    otherwise hear nothing.
    """

    _text: str

    def __init__(self, hurried: Callable[[], bool], language: str | None = None) -> None:
        """``hurried`` is asked at each end of a clause."""
        super().__init__(aggregation_type=TextType.SENTENCE, language=language)
        self._hurried = hurried

    async def _check_sentence_with_lookahead(
        self, char: str, *, protected_end: int = 0
    ) -> Aggregation | None:
        found = await super()._check_sentence_with_lookahead(char, protected_end=protected_end)
        if found is not None:
            return found
        cut = self._clause_end()
        if cut <= protected_end:
            return None
        clause, rest = self._text[:cut], self._text[cut:]
        await self.reset()
        self._text = rest
        return Aggregation(text=clause.strip(" "), type=TextType.SENTENCE)

    def _clause_end(self) -> int:
        """Where the clause ends that the last character has completed; 0 if it has none."""
        text = self._text
        # The space that completes it follows the mark and at most a few closing quotes.
        for mark in CLAUSE_END.finditer(text, max(0, len(text) - 8)):
            said = len(_WORD_CHARACTER.findall(text, 0, mark.start()))
            if mark.end() >= len(text) - 1 and said >= _LEAST and self._hurried():
                return mark.end()
        return 0
