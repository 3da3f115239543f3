"""The decoder's step in fused kernels: what `Decoder.step` does, in a quarter of its launches.

For a GPU and half precision, for which plain torch is the reference; a CPU and float32 use that.
The residual stream is float32 here, which the plain step in half precision does not keep.
"""

from __future__ import annotations

import torch
from torch import Tensor

from runtime.engines.cuda import shared_memory
from runtime.engines.magpie import alignment
from runtime.engines.magpie.decoder import Decoder
from runtime.engines.magpie.folded import FoldedWeights
from runtime.engines.magpie.launches import Launches
from runtime.engines.magpie.projections import Tiles
from runtime.engines.magpie.tiles import SHARING, tiles_within
from runtime.engines.magpie.workspace import Caches, Workspace


class FusedStep:
    """The step of a decoder, with the same contract and on the same state."""

    def __init__(
        self,
        decoder: Decoder,
        most: int,
        *,
        tiles: Tiles | None = None,
        sharing: int = SHARING,
    ) -> None:
        """Fold the weights of a decoder, and make room for steps of its slots.

        Args:
            decoder: Its weights are of half precision, and on a GPU.
            most: Slots of a step at the most, those included that only fill it up.
            tiles: How a projection of some rows, to and from some width, is cut up; by default
                as is quickest, within the shared memory of the device.
            sharing: Slots of a step from which on rows without voice and text read the one
                context that all such rows have.
        """
        weights, rules, extent = decoder.weights, decoder.rules, decoder.extent
        self.state, self._rules, self._sharing = decoder.state, rules, sharing
        self._untold = decoder.prefill.untold
        device = weights.norm.device
        self._later = torch.tensor(alignment.WEIGHTS, device=device)
        self._launch = Launches(
            weights,
            FoldedWeights.of(weights, rules.tokens),
            decoder.state,
            rules,
            extent,
            Workspace.of(weights, rules, extent, most),
            tiles or tiles_within(shared_memory(device)),
            # Programmatic dependent launch came with Hopper.
            overlap=device.type == "cuda" and torch.cuda.get_device_capability(device) >= (9, 0),
        )

    def step(self, slots: Tensor) -> None:
        """Take some slots forward, as `Decoder.step` does: no more than ``most``."""
        launch = self._launch
        launch.embed(slots)
        self._transform(slots)
        if self._rules.use_prior:
            launch.advance(self._later, slots)
        launch.finish(slots)
        self._local(slots)
        launch.end(slots)

    def _transform(self, slots: Tensor) -> None:
        """The decoder: hidden states, and attention to the texts."""
        launch, space, state = self._launch, self._launch.space, self.state
        pair, hidden = self._rules.pair, self._launch.space.hidden
        rows = len(slots) * pair
        untold = self._untold if len(slots) >= self._sharing else None
        for index, layer in enumerate(launch.folded.layers):
            assert layer.query is not None
            assert layer.cross_out is not None
            shared = None if untold is None else (untold[0][index], untold[1][index])
            caches = Caches(state.keys[index], state.values[index], shared=shared)
            launch.cached(hidden, layer, caches, slots, rows)
            launch.attend(layer, caches, slots)
            launch.add(space.attended, layer.out, hidden, rows)
            # Without voice and text there is nothing to attend to.
            launch.normed(hidden, layer.query, space.cross_queries, len(slots), every=pair)
            launch.attend_text(index, slots)
            launch.add(space.cross_attended, layer.cross_out, hidden, len(slots), every=pair)
            launch.normed(hidden, layer.up, space.inner, rows, gelu=True)
            launch.add(space.inner, layer.down, hidden, rows)

    def _local(self, slots: Tensor) -> None:
        """The local transformer: the codes of all outputs, one after another."""
        launch, space, weights = self._launch, self._launch.space, self._launch.weights
        count, rows, hidden = len(slots), len(slots) * self._rules.pair, space.spoken
        layers, guided = launch.folded.local_layers, self._rules.pair == 2
        if weights.local_in is not None:
            launch.add(space.normed, weights.local_in, hidden, rows)
        for output in range(self._rules.outputs):
            for index, layer in enumerate(layers):
                caches = Caches(space.local_keys[index], space.local_values[index], at=output)
                if index > 0 or output == 0:  # else the draw before has looked it up
                    launch.cached(hidden, layer, caches, slots, rows)
                launch.attend(layer, caches, slots)
                launch.add(space.attended, layer.out, hidden, rows)
                launch.normed(hidden, layer.up, space.inner, rows, gelu=True)
                if guided and index + 1 == len(layers):
                    launch.guide(space.inner, layer.down, hidden, space.local_guided, rows)
                else:
                    launch.add(space.inner, layer.down, hidden, rows)
            spoken = space.local_guided if guided else hidden.x
            launch.head(spoken, weights.local_heads[output], weights.local_biases[output], count)
            launch.draw(slots, output)
