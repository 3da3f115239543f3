"""How a talk is scored: what was said against what was told of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from runtime.bench.scaling import Talk
from runtime.speech import FinalTranscript

RATE = 1_000
SAID = [500, 600, 700]


def final(index: int, size: int, start: int) -> FinalTranscript:
    return FinalTranscript(f"{size} samples", index, start / RATE, (start + size) / RATE)


TOLD = [final(0, 500, 0), final(1, 600, 500), final(2, 700, 1_100)]
ANSWERS = [told.text for told in TOLD]


@pytest.mark.parametrize(
    ("finals", "lost", "doubled"),
    [
        (TOLD, 0, 0),
        (TOLD[:2], 1, 0),
        ([TOLD[0], *TOLD], 1, 500),
        ([TOLD[0], final(1, 640, 500), final(2, 700, 1_140)], 1, 40),
        ([TOLD[0], final(1, 520, 500), final(2, 700, 1_020)], 1, 0),
        ([TOLD[0], TOLD[1], replace(TOLD[2], start_s=1.02)], 1, 0),
        ([*TOLD, final(3, 80, 1_800)], 0, 80),
    ],
)
def test_an_utterance_counts_if_it_is_told_of_once_in_its_place_with_its_number(
    finals: list[FinalTranscript], lost: int, doubled: int
) -> None:
    talk = Talk(SAID, ANSWERS, finals)
    assert (talk.words_lost, talk.samples_doubled) == (lost, doubled)


def test_a_wrong_answer_is_a_lost_word_though_the_events_are_right() -> None:
    assert Talk(SAID, ["500", "80", "700"], TOLD).words_lost == 1
