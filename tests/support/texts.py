"""Texts for property tests: of all sorts, and dense in what scanners decide on."""

# Quotes, dashes and full-width marks of real texts are the subject here.
# ruff: noqa: RUF001

from __future__ import annotations

import unicodedata

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

quick = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])

# Dense in everything that the scanners decide on; plain st.text() almost never is.
# fmt: off
DENSE = [
    *"aBé3 .,!?;:…-—*_~`#<>&[]()\"'“”«»\n\t\r。，！？；।世界क", "\u094d", "\u200d", "\u0301",
    "Dr.", "z. B.", "e.g.", "etc.", "U.S.", "3.14", "1. ", "\n\n", "\n- ", "...", " »",
    "**", "~~", "```", "<b>", "</b>", "<br/>", "<!--", "-->", "](", "http://a.b/", "😀",
    "&lt;", "&amp;", "&gt;", "&#42;", "\ufe0f", "\u20e3", "\ud800", "\ue000", "\u0344",
    "supercalifragilistic", "\u00a0", "\u2028", "\ufeff", "\u00ad", "=", "# ", "> ", "- ",
]
# fmt: on
dense_text = st.lists(st.sampled_from(DENSE), max_size=60).map("".join)
any_text = st.one_of(dense_text, st.text(max_size=200))


def said(character: str) -> bool:
    return unicodedata.category(character)[0] in "LN"
