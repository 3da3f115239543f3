"""What the fused kernels ask of a program's shared memory: less on a GB10 than on an H100."""

from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="needs the extra `nemo`")

from runtime.engines.magpie.tiles import stages_within, tile_of, tiles_within

H100, GB10 = 227 << 10, 99 << 10  # bytes that one program has
PRODUCTS = [(768, 768), (2304, 768), (3072, 768), (768, 3072), (2024 * 8, 256)]
ROWS = [1, 2, 16, 17, 32, 48, 64, 128, 192, 256]


def test_on_an_h100_tiles_are_the_quickest_that_were_found() -> None:
    for n, k in PRODUCTS:
        for rows in ROWS:
            assert tiles_within(H100)(rows, n, k) == tile_of(rows, n, k)


def test_on_a_gb10_no_tile_asks_for_more_than_there_is() -> None:
    changed = 0
    for n, k in PRODUCTS:
        for rows in ROWS:
            tile, quickest = tiles_within(GB10)(rows, n, k), tile_of(rows, n, k)
            assert (tile.stages - 1) * 2 * (tile.rows + tile.columns) * tile.depth <= GB10
            assert tile.stages >= 2
            changed += tile != quickest
    assert changed, "a projection of 64 rows and 3 072 columns did not fit"


def test_fewer_stages_are_taken_only_where_they_do_not_fit() -> None:
    assert [stages_within(5, piece, 1_000) for piece in (1, 225, 226, 450, 451, 5_000)] == [
        *(5, 5, 4, 3, 2, 2)
    ]
