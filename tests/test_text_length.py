"""Texts of any length: the first piece comes at once, and time grows as the text does."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from runtime.speakable import speakable
from runtime.text import plan_chunks

pytestmark = pytest.mark.timed

MEGABYTE = 1_000_000  # characters

# fmt: off
HARD_TO_SPLIT = [
    "a", ".", "(", " ", "\n", " \n", ".\n", ". ", "A. ", "z. B. ", '." ', ".)", ". (", "。", '。"',
    "...", "1. ", "\n- ", "a,", "\u0301", "[1]", " »", "```a\n", "The fox runs. ",
]
HARD_TO_CLEAN = [
    "a", ".", "(", " ", "\n", " \n", "<", "<a", "<a ", "<a b='", "<!--", "<!--a", "-", "-a", "*",
    "**a ", "*a", "_a", "~~a", "`", "[", "[a](", '[a](b "', "&", "&amp;", "# ", "- ", "> ",
    "\U0001f600", " \U0001f600", "\u0301", "\u0301\u0323", "\u200d", "\ud800",
]
# fmt: on


def cpu_seconds(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def assert_linear(work: Callable[[str], object], unit: str) -> None:
    small, large = (unit * 50_000)[:50_000], (unit * 400_000)[:400_000]
    # Eight times the text: linear work takes 8 times as long, quadratic work 64 times.
    assert cpu_seconds(lambda: work(large)) < 13 * cpu_seconds(lambda: work(small)) + 0.3


def test_the_first_piece_of_a_long_text_does_not_wait_for_the_rest() -> None:
    text = "The quick brown fox, said Dr. Smith, jumps at 3.14 p.m. over dogs. " * 16_000
    assert len(text) > MEGABYTE
    # The whole plan takes some hundred times as long; the best of five is free of noise.
    assert min(cpu_seconds(lambda: next(plan_chunks(text))) for _ in range(5)) < 0.005


@pytest.mark.parametrize("unit", ["a", ".", "(", "<", "*", "The fox runs. "])
def test_a_megabyte_takes_seconds(unit: str) -> None:
    text = (unit * MEGABYTE)[:MEGABYTE]
    assert cpu_seconds(lambda: list(plan_chunks(text))) < 5
    assert cpu_seconds(lambda: speakable(text)) < 5


@pytest.mark.parametrize("unit", HARD_TO_SPLIT)
def test_planning_takes_linear_time(unit: str) -> None:
    assert_linear(lambda text: list(plan_chunks(text, "de")), unit)


@pytest.mark.parametrize("unit", HARD_TO_CLEAN)
def test_cleaning_takes_linear_time(unit: str) -> None:
    assert_linear(lambda text: speakable(f"<!-- {text}"), unit)
