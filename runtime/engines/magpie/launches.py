"""Each fused kernel with the sizes that it is compiled for; `fused` has their order."""

from __future__ import annotations

from dataclasses import dataclass

import triton
from torch import Tensor

from runtime.engines.magpie import alignment
from runtime.engines.magpie.folded import FoldedLayer
from runtime.engines.magpie.kernels.attention import LOG2_E, attend_cache, attend_text
from runtime.engines.magpie.kernels.drawing import draw_code
from runtime.engines.magpie.kernels.ends import (
    embed_codes,
    finish_hidden,
    likeliest_codes,
    note_end,
)
from runtime.engines.magpie.kernels.following import advance_alignment
from runtime.engines.magpie.layers import TINY
from runtime.engines.magpie.projections import EPSILON, Projections, power_of_2
from runtime.engines.magpie.state import BROKEN, NEVER
from runtime.engines.magpie.tiles import CACHE_SPAN, TEXT_SPAN, Span
from runtime.engines.magpie.workspace import Caches


@dataclass(frozen=True, slots=True)
class Launches(Projections):
    """One method a kernel."""

    def embed(self, slots: Tensor) -> None:
        """The last step's codes as hidden states."""
        state, rules, hidden, d = self.state, self.rules, self.space.hidden, self.extent.d
        block, parts = min(power_of_2(d), 128), self.parts(len(slots) * rules.pair, d)
        embed_codes[len(slots), triton.cdiv(d, block)](
            state.codes,
            self.weights.audio,
            self.weights.positions,
            slots,
            state.place,
            hidden.residual,
            hidden.x,
            hidden.stats,
            hidden.stats.shape[1] // parts,
            STATS=parts,
            STAT_LANES=power_of_2(parts),
            D=d,
            OUTPUTS=rules.outputs,
            LANES=power_of_2(rules.outputs),
            TOKENS=rules.tokens,
            PAIR=rules.pair,
            BLOCK=block,
            **self.options(4),
        )

    def attend(self, layer: FoldedLayer, caches: Caches, slots: Tensor) -> None:
        """Self-attention to the caches."""
        state, space, pair = self.state, self.space, self.rules.pair
        shared, places = caches.shared or (caches.keys, caches.values), caches.keys.shape[2]
        local = caches.at is not None
        span = Span(power_of_2(places), 1, 1) if local else CACHE_SPAN
        attend_cache[len(slots) * pair, layer.heads](
            space.queries,
            caches.keys,
            caches.values,
            space.attended,
            slots,
            state.place,
            state.step,
            *shared,
            caches.at or 0,
            layer.width**-0.5 * LOG2_E,
            CONTEXT=self.extent.context,
            PLACES=places,
            HEADS=layer.heads,
            WIDTH=layer.width,
            WIDE=power_of_2(layer.width),
            PAIR=pair,
            LOCAL=local,
            SHARED=caches.shared is not None,
            BLOCK=span.places,
            STAGES=span.stages,
            **self.options(span.warps),
        )

    def attend_text(self, index: int, slots: Tensor) -> None:
        """Cross-attention of a layer to the texts, under the prior."""
        state, space, rules, extent = self.state, self.space, self.rules, self.extent
        aligning = sorted(rules.aligning)
        attend_text[(len(slots),)](
            space.cross_queries,
            state.cross_keys[index],
            state.cross_values[index],
            space.cross_attended,
            slots,
            state.alignment.length,
            state.alignment.prior,
            space.fits,
            space.scores,
            extent.cross_width**-0.5 * LOG2_E,
            1.0 / (extent.cross_heads * len(aligning)),
            TEXT=extent.text,
            HEADS=extent.cross_heads,
            WIDTH=extent.cross_width,
            WIDE=power_of_2(extent.cross_width),
            GUIDED=index in rules.guided,
            ALIGNS=0 if index not in aligning else 1 if index == aligning[0] else 2,
            TINY=TINY,
            BLOCK=TEXT_SPAN.places,
            STAGES=TEXT_SPAN.stages,
            **self.options(TEXT_SPAN.warps),
        )

    def advance(self, later: Tensor, slots: Tensor) -> None:
        """Follow the attention to the texts; ``later`` is `alignment.WEIGHTS`."""
        follow, prior = self.state.alignment, self.rules.prior
        advance_alignment[(len(slots),)](
            self.space.scores,
            slots,
            follow.length,
            follow.last,
            follow.count,
            follow.prior,
            follow.near_end,
            follow.later,
            prior.epsilon,
            prior.epsilon**2,
            later,
            TEXT=self.extent.text,
            LANES=power_of_2(self.extent.text),
            AHEAD=prior.lookahead,
            AHEAD_LANES=power_of_2(prior.lookahead),
            STUCK=alignment.STUCK,
            SINK=alignment.SINK,
            TAIL=alignment.TAIL,
            SHORT=alignment.SHORT,
            SHORT_LATER=alignment.SHORT_LATER,
            BEFORE=alignment.BEFORE,
            KNOWN=len(alignment.WEIGHTS),
            **self.options(4),
        )

    def finish(self, slots: Tensor) -> None:
        """The decoder's last norm, and what heads and local transformer begin with."""
        weights, rules, space, d = self.weights, self.rules, self.space, self.extent.d
        local_d = weights.local_positions.shape[1]
        parts = self.parts(len(slots) * rules.pair, local_d)
        finish_hidden[(len(slots),)](
            space.hidden.residual,
            weights.norm,
            space.normed,
            space.guided,
            rules.scale,
            self.folded.start,
            space.spoken.residual,
            space.spoken.x,
            space.sound,
            space.spoken.stats,
            space.spoken.stats.shape[1] // parts,
            D=d,
            NARROW=weights.local_in is not None,
            LOCAL_D=local_d,
            STATS=parts,
            STAT_LANES=power_of_2(parts),
            PAIR=rules.pair,
            EPS=EPSILON,
            BLOCK=power_of_2(max(d, local_d)),
            **self.options(4),
        )

    def draw(self, slots: Tensor, output: int) -> None:
        """Draw the codes of an output, and look up what the next one begins with."""
        state, rules, space = self.state, self.rules, self.space
        positions, layer = self.weights.local_positions, self.folded.local_layers[0]
        goes_on, d = output + 1 < rules.outputs, positions.shape[1]
        draw_code[(len(slots),)](
            space.logits,
            slots,
            state.seed,
            state.temperature,
            state.step,
            space.drawn,
            self.folded.table,
            positions[output + 1] if goes_on else positions,
            space.spoken.residual,
            space.spoken.x,
            self.folded.projected,
            space.queries,
            space.local_keys,
            space.local_values,
            output,
            rules.codes,
            rules.end,
            self._early,
            min(rules.top_k, rules.tokens),
            TOKENS=rules.tokens,
            OUTPUTS=rules.outputs,
            D=d,
            HEADS=layer.heads,
            WIDTH=layer.width,
            PAIR=rules.pair,
            GOES_ON=goes_on,
            BLOCK=power_of_2(rules.tokens),
            BLOCK_D=power_of_2(d),
            # What plain torch rounds twice is rounded twice.
            **self.options(4, enable_fp_fusion=False),
        )

    def end(self, slots: Tensor) -> None:
        """Ask the decoder's heads for the end, and leave the slots' state for the next step."""
        state, rules, weights, space = self.state, self.rules, self.weights, self.space
        count = len(slots)
        tile = self.tiles(count, rules.outputs * rules.tokens, self.extent.d)
        tiles = triton.cdiv(rules.tokens, tile.columns)
        likeliest_codes[tiles, rules.outputs, triton.cdiv(count, tile.rows)](
            space.guided,
            weights.head,
            weights.head_bias,
            slots,
            state.step,
            space.best,
            space.where,
            count,
            rules.codes,
            rules.end,
            self._early,
            TOKENS=rules.tokens,
            OUTPUTS=rules.outputs,
            TILES=tiles,
            D=self.extent.d,
            BLOCK_M=tile.rows,
            BLOCK_N=tile.columns,
            BLOCK_K=tile.depth,
            STAGES=tile.stages,
            **self.options(tile.warps),
        )
        note_end[(count,)](
            space.drawn,
            space.best,
            space.where,
            slots,
            state.place,
            state.step,
            state.codes,
            state.frames,
            state.ended,
            state.last,
            state.alignment.near_end,
            space.sound,
            rules.end,
            self.extent.places,
            self.extent.steps,
            state.frames.shape[1] * rules.codebooks,
            OUTPUTS=rules.outputs,
            CODEBOOKS=rules.codebooks,
            STACKING=rules.stacking,
            PATIENCE=alignment.PATIENCE,
            NEVER=NEVER,
            BROKEN=BROKEN,
            TILES=tiles,
            LANES=power_of_2(rules.outputs),
            TILE_LANES=power_of_2(tiles),
            **self.options(4),
        )

    @property
    def _early(self) -> int:
        """The first step in which speech may end."""
        return -(-self.rules.min_frames // self.rules.stacking)
