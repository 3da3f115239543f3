"""Symbols that are read aloud, where no other rule has taken them."""

# Dashes, quotes, primes and signs of real texts are the subject, not typos.
# ruff: noqa: RUF001

from __future__ import annotations

from runtime.normalization.english.rule import Rule, rule

_WORDS = {
    "&": "and", "@": "at", "%": "percent", "=": "equals", "≠": "does not equal", "≈": "about",
    "±": "plus or minus", "×": "times", "÷": "divided by", "√": "square root of", "∞": "infinity",
    "≤": "less than or equal to", "≥": "greater than or equal to", "§": "section", "°": "degrees",
    "€": "euros", "£": "pounds", "¥": "yen", "$": "dollars", "¢": "cents", "©": "copyright",
    "®": "registered", "№": "number", "π": "pi", "Ω": "ohms", "µ": "micro", "∑": "sum",
    "‰": "per mille",
}  # fmt: skip
_SYMBOL = "".join(_WORDS)

RULES: tuple[Rule, ...] = (
    rule(r"\b([CF])#(?!\w)", lambda match: f"{match[1]} sharp"),
    rule(r"\+{2,3}(?!\w)", lambda match: " ".join(["plus"] * len(match[0]))),
    rule(r"(?<=[\w)])\s?\+\s?(?=[\w(])", lambda _: " plus "),
    rule(r"(?<=\w)\+(?!\w)", lambda _: " plus"),
    rule(r"(?<=[\w)])\s<=\s(?=[\w(-])", lambda _: " less than or equal to "),
    rule(r"(?<=[\w)])\s>=\s(?=[\w(-])", lambda _: " greater than or equal to "),
    rule(r"(?<=[\w)])\s<\s(?=[\w(-])", lambda _: " less than "),
    rule(r"(?<=[\w)])\s>\s(?=[\w(-])", lambda _: " greater than "),
    rule(
        r"(?<=\w)\s?(?:==|!=)\s?(?=\w)",
        lambda match: " equals " if "==" in match[0] else " does not equal ",
    ),
    rule(rf"[{_SYMBOL}]", lambda match: f" {_WORDS[match[0]]} "),
    rule(r"(?<=[A-Za-z])/(?=[A-Za-z])|(?<=\w)_(?=\w)", lambda _: " "),
)
