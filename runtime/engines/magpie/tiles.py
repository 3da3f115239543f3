"""How the fused kernels cut their work up: the quickest of what was tried on an H100."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Tile:
    """The part of a product that one program makes.

    Attributes:
        rows: Of the product.
        columns: Of the product.
        depth: Of its operands, at a time.
        stages: How many such pieces are on their way at a time, and one more.
        warps: Of a program.
    """

    rows: int
    columns: int
    depth: int
    stages: int
    warps: int


@dataclass(frozen=True, slots=True)
class Span:
    """How a program of attention goes over its positions.

    Attributes:
        places: At a time.
        stages: How many such pieces are on their way at a time, and one more.
        warps: Of a program.
    """

    places: int
    stages: int
    warps: int


CACHE_SPAN, TEXT_SPAN = Span(64, 3, 4), Span(64, 2, 8)
"""Over a row's own cache, and over its text."""

SHARING = 8
"""Slots of a step from which on rows without voice and text read one context for all."""

_WIDE = 1024  # columns beyond which a product is cut into wider tiles
_DEEP = 1024  # depth beyond which it is cut into deeper ones

# Most rows of the product -> tile, in the geometry of 2026 (widths 768 and 3 072).
_TILES_WIDE = {
    16: Tile(16, 32, 128, 6, 4),
    32: Tile(32, 32, 128, 5, 4),
    64: Tile(64, 32, 64, 6, 4),
    128: Tile(64, 64, 64, 6, 4),
    256: Tile(64, 128, 64, 5, 8),
}
_TILES_DEEP = {
    16: Tile(16, 8, 512, 4, 4),
    32: Tile(16, 16, 256, 4, 4),
    64: Tile(64, 16, 256, 4, 4),
    128: Tile(64, 16, 256, 3, 4),
    256: Tile(64, 32, 128, 5, 4),
}
_TILES = {
    16: Tile(16, 8, 256, 6, 2),
    32: Tile(16, 16, 256, 4, 4),
    64: Tile(64, 16, 128, 5, 4),
    128: Tile(64, 16, 128, 5, 4),
    256: Tile(64, 32, 64, 6, 4),
}


_LEAST_STAGES = 2
_SPARE = 10  # a tenth of the shared memory is for what is not a piece of an operand


def stages_within(stages: int, piece: int, shared: int) -> int:
    """As many of ``stages`` as fit where a program has ``shared`` bytes, for pieces of ``piece``.

    One piece fewer than stages is kept there. Hopper keeps one for each, and has room for it;
    GPUs such as the GB10 have less than half as much.
    """
    room = shared - shared // _SPARE
    return max(_LEAST_STAGES, min(stages, 1 + room // piece))


def tiles_within(shared: int) -> Callable[[int, int, int], Tile]:
    """``tile_of``, for programs that have so many bytes of shared memory."""

    def fitting(rows: int, n: int, k: int) -> Tile:
        tile = tile_of(rows, n, k)
        piece = 2 * (tile.rows + tile.columns) * tile.depth  # half precision
        return replace(tile, stages=stages_within(tile.stages, piece, shared))

    return fitting


def tile_of(rows: int, n: int, k: int) -> Tile:
    """A tile for the product of ``(rows, k)`` and ``(k, n)``."""
    tiles = _TILES_DEEP if k > _DEEP else _TILES_WIDE if n > _WIDE else _TILES
    tile = tiles[next((most for most in tiles if rows <= most), max(tiles))]
    return replace(tile, depth=max(16, min(tile.depth, 1 << (k - 1).bit_length())))
