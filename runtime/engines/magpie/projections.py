"""The fused projection, in the uses that a step has for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import triton
from torch import Tensor

from runtime.engines.magpie.folded import Folded, FoldedLayer, FoldedWeights
from runtime.engines.magpie.kernels.linear import (
    CACHE,
    GUIDED,
    LOGITS,
    RESIDUAL,
    ROWS,
    project_rows,
)
from runtime.engines.magpie.rules import Rules
from runtime.engines.magpie.state import Extent, State
from runtime.engines.magpie.tiles import Tile
from runtime.engines.magpie.weights import Weights
from runtime.engines.magpie.workspace import Caches, Rows, Workspace

EPSILON = 1e-5
"""Of the layer norms: torch's own, which NeMo leaves as it is."""

Tiles = Callable[[int, int, int], Tile]
"""How a product of some rows, from some width to another, is cut up."""

power_of_2: Callable[[int], int] = triton.next_power_of_2


@dataclass(frozen=True, slots=True)
class Projections:
    """Launches of one kernel, for a decoder's weights and state.

    Attributes:
        weights: Of the checkpoint.
        folded: They as the kernels read them.
        state: Of the slots.
        rules: Of the checkpoint.
        extent: Of the state.
        space: What the kernels leave for one another.
        tiles: How a product of some rows, to and from some width, is cut up.
        overlap: Whether a kernel comes up while the one before it runs.
    """

    weights: Weights
    folded: FoldedWeights
    state: State
    rules: Rules
    extent: Extent
    space: Workspace
    tiles: Tiles
    overlap: bool

    def normed(
        self,
        rows: Rows,
        folded: Folded,
        out: Tensor,
        count: int,
        every: int = 1,
        gelu: bool = False,
    ) -> None:
        """Norm every so many of the rows, ``count`` of them, and project them to ``out``."""
        self._project(rows, folded, out, ROWS, count, x_every=every, gelu=gelu)

    def cached(
        self, rows: Rows, layer: FoldedLayer, caches: Caches, slots: Tensor, count: int
    ) -> None:
        """Norm rows and project them to queries, and to keys and values in their caches."""
        self._project(
            rows,
            layer.qkv,
            self.space.queries,
            CACHE,
            count,
            caches=caches,
            slots=slots,
            layer=layer,
        )

    def add(self, x: Tensor, weight: Tensor, to: Rows, count: int, every: int = 1) -> None:
        """Project ``count`` rows, and add them to every so many rows of a residual stream."""
        self._project(x, weight, to.x, RESIDUAL, count, residual=to, out_every=every)

    def guide(self, x: Tensor, weight: Tensor, to: Rows, out: Tensor, count: int) -> None:
        """As `add`, but all that is kept is the sum under guidance, one row a slot."""
        self._project(x, weight, out, GUIDED, count, residual=to)

    def head(self, x: Tensor, weight: Tensor, bias: Tensor, count: int) -> None:
        """Logits of an output of the local transformer."""
        self._project(x, weight, self.space.logits, LOGITS, count, bias=bias)

    def _project(
        self,
        x: Tensor | Rows,
        weight: Tensor | Folded,
        out: Tensor,
        kind: int,
        rows: int,
        *,
        residual: Rows | None = None,
        bias: Tensor | None = None,
        caches: Caches | None = None,
        slots: Tensor | None = None,
        layer: FoldedLayer | None = None,
        x_every: int = 1,
        out_every: int = 1,
        gelu: bool = False,
    ) -> None:
        """Pointers that a kind of product does not need are some pointer that there is."""
        matrix = weight.weight if isinstance(weight, Folded) else weight
        n, k = matrix.shape
        tile = self.tiles(rows * out_every, n, k)
        stats, parts = out, 1
        if residual is not None:  # whoever adds to a row leaves sums of the same parts
            tile = replace(tile, columns=self.tiles(rows * out_every, n, n).columns)
            stats, parts = residual.stats, triton.cdiv(n, tile.columns)
        if isinstance(x, Rows):
            stats, parts = x.stats, self.parts(rows * x_every, k)
        project_rows[triton.cdiv(n, tile.columns), triton.cdiv(rows, tile.rows)](
            x.x if isinstance(x, Rows) else x,
            matrix,
            weight.sums if isinstance(weight, Folded) else matrix,
            matrix if bias is None else bias,
            out,
            out if residual is None else residual.residual,
            stats,
            out if caches is None else caches.keys,
            out if caches is None else caches.values,
            out if slots is None else slots,
            self.state.place,
            rows,
            (caches.at if caches else None) or 0,
            stats.shape[-1] // parts,
            self.rules.scale,
            N=n,
            K=k,
            PLACES=caches.keys.shape[2] if caches else 1,
            HEADS=layer.heads if layer else 1,
            WIDTH=layer.width if layer else 1,
            PAIR=self.rules.pair,
            X_EVERY=x_every,
            OUT_EVERY=out_every,
            KIND=kind,
            NORM=isinstance(x, Rows),
            GELU=gelu,
            LOCAL=caches is not None and caches.at is not None,
            EPS=EPSILON,
            BLOCK_M=tile.rows,
            BLOCK_N=tile.columns,
            BLOCK_K=tile.depth,
            STAGES=tile.stages,
            STATS=parts,
            STAT_LANES=power_of_2(parts),
            LINES=power_of_2(triton.cdiv(k, 64)),
            **self.options(tile.warps),
        )

    def parts(self, rows: int, d: int) -> int:
        """Of a row of hidden states, as projections leave its sums."""
        return -(-d // self.tiles(rows, d, d).columns)

    def options(self, warps: int, **options: Any) -> dict[str, Any]:
        """Of any launch."""
        if self.overlap:
            options["launch_pdl"] = True
        return {"OVERLAP": self.overlap, "num_warps": warps, **options}
