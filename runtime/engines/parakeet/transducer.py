"""The greedy label loop of an RNNT for a batch, on the device, in static shapes.

Each turn asks the joint network once for every stream: a blank takes a stream to its next
frame, a token takes its prediction network one token on. A chunk needs as many turns as its
busiest stream has frames and tokens, so that a fixed number of turns can be one CUDA graph,
with more of them only where some stream is not through.

The tokens are those of NeMo 3.0.0's label-looping decoder
(nemo/collections/asr/parts/submodules/transducer_decoders/rnnt_label_looping.py).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class Transducer:
    """Prediction and joint of a model, and what each slot's prediction network holds."""

    def __init__(self, model: Any, rows: int, max_symbols: int) -> None:
        """Take NeMo's transducer model on its device.

        Args:
            model: With an ``RNNTDecoder`` and an ``RNNTJoint``, both float32.
            rows: Slots.
            max_symbols: Tokens of one frame, at the most.
        """
        self._decoder, self._joint = model.decoder, model.joint
        self._max_symbols = max_symbols
        self._blank = int(model.decoder.blank_idx)
        with torch.no_grad():
            said, (hidden, cell) = self._decoder.predict(
                None, state=None, add_sos=False, batch_size=1
            )
            said = self._joint.project_prednet(said)[:, 0]
        self._fresh = (said, hidden, cell)
        self._said = said.repeat(rows, 1)  # (rows, joint)
        self._hidden = hidden.repeat(1, rows, 1)  # (layers, rows, prediction)
        self._cell = cell.repeat(1, rows, 1)

    @property
    def state_bytes(self) -> int:
        """Of all slots."""
        return int(self._said.nbytes + self._hidden.nbytes + self._cell.nbytes)

    def reset(self, rows: Tensor) -> None:
        """Let these slots begin with nothing said."""
        said, hidden, cell = self._fresh
        self._said.index_copy_(0, rows, said.expand(len(rows), -1))
        self._hidden.index_copy_(1, rows, hidden.expand(-1, len(rows), -1))
        self._cell.index_copy_(1, rows, cell.expand(-1, len(rows), -1))

    def loop(self, batch: int, frames: int) -> LabelLoop:
        """Working memory for so many streams and frames."""
        return LabelLoop(self, batch, frames)


class LabelLoop:
    """The decoding of a batch under way; all of it in tensors that stay where they are.

    Attributes:
        result: Int32 ``(batch, 2 + 2 * most)``: how many tokens, whether the stream is
            through, the tokens, and the frame of each.
        most: Tokens of a chunk, at the most.
    """

    def __init__(self, transducer: Transducer, batch: int, frames: int) -> None:
        """Made by ``Transducer.loop``."""
        self._of = transducer
        self.most = frames * transducer._max_symbols
        device, said = transducer._said.device, transducer._said
        layers, _, width = transducer._hidden.shape

        def whole(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.int64, device=device)

        self._index = torch.arange(batch, device=device)
        self._encoded = torch.zeros(batch, frames, said.shape[1], device=device)
        self._said = torch.zeros(batch, said.shape[1], device=device)
        self._hidden = torch.zeros(layers, batch, width, device=device)
        self._cell = torch.zeros_like(self._hidden)
        self._rows, self._lengths = whole(batch), whole(batch)
        self._frame, self._symbols, self._count = whole(batch), whole(batch), whole(batch)
        # One place more than there can be tokens takes what is none.
        self._tokens, self._frames = whole(batch, self.most + 1), whole(batch, self.most + 1)
        self.result = torch.zeros(batch, 2 + 2 * self.most, dtype=torch.int32, device=device)

    def begin(self, encoded: Tensor, lengths: Tensor, rows: Tensor) -> None:
        """Take up the chunks of some slots: ``(batch, frames, width)``, frames that count."""
        of = self._of
        self._encoded.copy_(of._joint.project_encoder(encoded))
        self._lengths.copy_(lengths)
        self._rows.copy_(rows)
        self._said.copy_(of._said.index_select(0, rows))
        self._hidden.copy_(of._hidden.index_select(1, rows))
        self._cell.copy_(of._cell.index_select(1, rows))
        for counter in (self._frame, self._symbols, self._count):
            counter.zero_()

    def turns(self, count: int) -> None:
        """Take each stream so many turns on, keep its state, and fill ``result``."""
        for _ in range(count):
            self._turn()
        of = self._of
        of._said.index_copy_(0, self._rows, self._said)
        of._hidden.index_copy_(1, self._rows, self._hidden)
        of._cell.index_copy_(1, self._rows, self._cell)
        self.result[:, 0].copy_(self._count)
        self.result[:, 1].copy_(self._frame >= self._lengths)
        self.result[:, 2 : 2 + self.most].copy_(self._tokens[:, :-1])
        self.result[:, 2 + self.most :].copy_(self._frames[:, :-1])

    def _turn(self) -> None:
        of, last = self._of, self._encoded.shape[1] - 1
        heard = self._encoded[self._index, self._frame.clamp(max=last)]
        logits = of._joint.joint_after_projection(heard[:, None], self._said[:, None])
        labels = logits[:, 0, 0].argmax(-1)
        going = self._frame < self._lengths
        speaks = going & (labels != of._blank)
        where = torch.where(speaks, self._count, self.most)[:, None]
        self._tokens.scatter_(1, where, labels[:, None])
        self._frames.scatter_(1, where, self._frame[:, None])
        self._count.add_(speaks)
        self._symbols.add_(speaks)
        moves = going & (~speaks | (self._symbols >= of._max_symbols))
        self._frame.add_(moves)
        self._symbols.masked_fill_(moves, 0)
        said, (hidden, cell) = of._decoder.predict(
            labels[:, None], state=(self._hidden, self._cell), add_sos=False, batch_size=len(labels)
        )
        said = of._joint.project_prednet(said)[:, 0]
        self._said.copy_(torch.where(speaks[:, None], said, self._said))
        self._hidden.copy_(torch.where(speaks[None, :, None], hidden, self._hidden))
        self._cell.copy_(torch.where(speaks[None, :, None], cell, self._cell))
