"""Drawing codes: the right distribution, from numbers that anybody can make again."""

from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="needs the extra `nemo`")

import torch

from runtime.engines.magpie.sampling import draw, uniform


def test_numbers_are_within_the_open_interval_and_even() -> None:
    seeds = torch.arange(64)
    numbers = uniform(seeds, torch.tensor(3), 4096)
    assert 0.0 < float(numbers.min()) < 1e-4
    assert 1 - 1e-4 < float(numbers.max()) < 1.0
    counts = torch.histc(numbers, 16, 0, 1)
    expected = numbers.numel() / 16
    assert float((counts - expected).abs().max()) < 5 * expected**0.5


def test_seeds_positions_and_codes_each_change_the_numbers() -> None:
    numbers = uniform(torch.tensor([1, 2, -(2**62)]), torch.tensor([0, 0, 5]), 1000)
    others = uniform(torch.tensor([1, 2, -(2**62)]), torch.tensor([1, 1, 6]), 1000)
    columns = torch.cat([numbers, others])
    correlation = torch.corrcoef(columns) - torch.eye(6)
    assert float(correlation.abs().max()) < 0.15
    again = uniform(torch.tensor([1, 2, -(2**62)]), torch.tensor([0, 0, 5]), 1000)
    assert torch.equal(numbers, again)


def test_codes_are_drawn_as_often_as_the_softmax_says() -> None:
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0, 0.5])
    temperature, draws = 0.7, 20_000
    drawn = draw(
        logits.expand(draws, -1),
        torch.full((draws,), temperature),
        3,
        torch.arange(draws),
        torch.tensor(0),
    )
    shares = torch.bincount(drawn, minlength=5) / draws
    kept = torch.tensor([0, 1, 4])
    expected = torch.zeros(5)
    expected[kept] = torch.softmax(logits[kept] / temperature, 0)
    assert float((shares - expected).abs().max()) < 0.012
    assert not shares[2]
    assert not shares[3]


def test_temperature_0_takes_the_likeliest_beside_rows_that_draw() -> None:
    logits = torch.randn(50, 30, generator=torch.Generator().manual_seed(1))
    logits[:, 7] = float("-inf")
    temperature = torch.arange(50) % 2 * 0.9
    drawn = draw(logits, temperature, 30, torch.arange(50), torch.tensor(4))
    cold = temperature == 0
    assert torch.equal(drawn[cold], logits[cold].argmax(1))
    assert not torch.equal(drawn[~cold], logits[~cold].argmax(1))
    assert not (drawn == 7).any()
