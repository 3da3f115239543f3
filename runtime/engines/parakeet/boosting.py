"""Phrases that a request expects: NeMo's boosting trees, kept for those who ask again.

Every row of a batch may have a tree of its own (``GPUBiasingMultiModel``): its scores are added
to those of the tokens that go on with one of the phrases.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from runtime.errors import InvalidRequest

MAX_PHRASES = 1000
"""Most phrases of a request: their tree takes 0.2 s of a core, and 10,000 take two."""

_KEPT = 32  # trees that are kept for whoever asks again; a thousand phrases take 2 MB


@dataclass(frozen=True, slots=True)
class Boost:
    """What to listen for, and how much: 1.0 is what NeMo recommends."""

    phrases: tuple[str, ...]
    strength: float


@dataclass(frozen=True, slots=True, eq=False)
class Tree:
    """NeMo's tree of some phrases, on the CPU."""

    boost: Boost
    model: Any


class BoostingTrees:
    """Makes trees on any thread, and shows the decoder those of a batch on the model's."""

    def __init__(self, multi_model: Any, tokenizer: Any) -> None:
        """``multi_model`` is that of NeMo's decoder; its buffers are in graphs, and never grow."""
        self._multi_model = multi_model
        self._tokenizer = tokenizer
        self._made: OrderedDict[Boost, Tree] = OrderedDict()
        self._making = threading.Lock()
        self._shown: OrderedDict[Boost, int] = OrderedDict()

    def tree(self, boost: Boost) -> Tree:
        """The tree of some phrases; made on the calling thread, or as it was made before."""
        with self._making:
            tree = self._made.get(boost) or Tree(boost, self._make(boost))
            self._made[boost] = tree
            self._made.move_to_end(boost)
            if len(self._made) > _KEPT:
                self._made.popitem(last=False)
        return tree

    def show(self, trees: Sequence[Tree | None]) -> list[int]:
        """NeMo's number of each row's tree; -1 for rows without. On the model's thread.

        Raises:
            InvalidRequest: The trees of one batch do not fit together.
        """
        wanted = {tree.boost: tree for tree in trees if tree is not None}
        for boost in wanted.keys() & self._shown.keys():
            self._shown.move_to_end(boost)
        for boost in wanted.keys() - self._shown.keys():
            self._make_room(wanted[boost].model, keep=wanted)
            self._shown[boost] = self._multi_model.add_model(
                wanted[boost].model, alpha=boost.strength
            )
        return [-1 if tree is None else self._shown[tree.boost] for tree in trees]

    def _make_room(self, model: Any, keep: dict[Boost, Tree]) -> None:
        """Take out the trees used longest ago: buffers that grew would invalidate the graphs."""
        multi = self._multi_model
        while (
            multi.num_states_total + model.num_states > multi.num_states_reserved
            or multi.num_arcs_extended_total + model.num_arcs_extended
            > multi.num_arcs_extended_reserved
            or len(self._shown) >= multi.num_models_reserved
        ):
            oldest = next((boost for boost in self._shown if boost not in keep), None)
            if oldest is None:
                raise InvalidRequest(
                    "The phrases of the recordings that are recognised together are too many to "
                    "hold at once; ask for fewer."
                )
            multi.remove_model(self._shown.pop(oldest))

    def _make(self, boost: Boost) -> Any:
        from nemo.collections.asr.parts.context_biasing.boosting_graph_batched import (
            BoostingTreeModelConfig,
            GPUBoostingTreeModel,
        )

        config = BoostingTreeModelConfig(key_phrases_list=list(boost.phrases))
        return GPUBoostingTreeModel.from_config(config, tokenizer=self._tokenizer)
