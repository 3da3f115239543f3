"""Amounts of money: symbols and codes, cents, magnitudes, ranges, rates."""

from __future__ import annotations

import re
from dataclasses import dataclass

from runtime.normalization.english import numbers
from runtime.normalization.english.rule import NUMBER, SIGN, START, TO, Rule, one_of, rule


@dataclass(frozen=True, slots=True)
class _Currency:
    one: str
    many: str
    cent: str = ""
    cents: str = ""


_DOLLAR = _Currency("dollar", "dollars", "cent", "cents")
_EURO = _Currency("euro", "euros", "cent", "cents")
_POUND = _Currency("pound", "pounds", "penny", "pence")
_YEN = _Currency("yen", "yen")


def _dollar_of(country: str) -> _Currency:
    return _Currency(f"{country} dollar", f"{country} dollars", "cent", "cents")


_BY_SYMBOL = {
    "$": _DOLLAR, "US$": _dollar_of("U S"), "C$": _dollar_of("Canadian"),
    "CA$": _dollar_of("Canadian"), "A$": _dollar_of("Australian"),
    "AU$": _dollar_of("Australian"), "NZ$": _dollar_of("New Zealand"),
    "HK$": _dollar_of("Hong Kong"), "S$": _dollar_of("Singapore"),
    "€": _EURO, "£": _POUND, "¥": _YEN, "₹": _Currency("rupee", "rupees", "paisa", "paise"),
    "₩": _Currency("won", "won"), "₽": _Currency("ruble", "rubles"),
    "₺": _Currency("lira", "lira"), "₫": _Currency("dong", "dong"),
    "₿": _Currency("bitcoin", "bitcoin"),
}  # fmt: skip
_BY_CODE = {
    "USD": _dollar_of("U S"), "EUR": _EURO, "GBP": _POUND, "JPY": _YEN,
    "CAD": _dollar_of("Canadian"), "AUD": _dollar_of("Australian"),
    "CHF": _Currency("Swiss franc", "Swiss francs"), "CNY": _Currency("yuan", "yuan"),
    "INR": _BY_SYMBOL["₹"], "VND": _BY_SYMBOL["₫"], "KRW": _BY_SYMBOL["₩"],
}  # fmt: skip
_CURRENCIES = _BY_SYMBOL | _BY_CODE

MAGNITUDES = {
    "thousand": "thousand", "million": "million", "billion": "billion", "trillion": "trillion",
    "k": "thousand", "K": "thousand", "mn": "million", "m": "million", "M": "million",
    "MM": "million", "bn": "billion", "B": "billion", "b": "billion", "tn": "trillion",
    "T": "trillion",
}  # fmt: skip
"""Words and letters for powers of ten; the letters count only right after a number."""
PERIODS = {
    "hr": "hour", "h": "hour", "mo": "month", "yr": "year", "y": "year", "wk": "week",
    "min": "minute",
    "sec": "second", "s": "second", "pp": "person", "ea": "each", "lb": "pound", "oz": "ounce",
    "kg": "kilogram", "gal": "gallon", "mi": "mile", "km": "kilometer", "d": "day",
}  # fmt: skip
"""What may follow a slash after an amount, where it is abbreviated."""

_SYMBOL = one_of(_BY_SYMBOL)
_CODE = one_of(_BY_CODE)
_MAGNITUDE = (
    r"(?:\s?(?P<magnitude>thousand|million|billion|trillion|mn|bn|tn)\b"
    r"|(?P<letter>MM|[kKmMbBT])\b)?"
)
_PER = r"(?:\s?/\s?(?P<per>[A-Za-z]{1,9}))?"


def _magnitude(match: re.Match[str]) -> str:
    written = match["magnitude"] or match["letter"]
    return MAGNITUDES[written] if written else ""


def _per(match: re.Match[str]) -> str:
    per = match["per"]
    return f" per {PERIODS.get(per, per)}" if per else ""


def _name(currency: _Currency, amount: str, magnitude: str) -> str:
    is_one = amount.replace(",", "").lstrip("-") in ("1", "1.00") and not magnitude
    return currency.one if is_one else currency.many


def _say(currency: _Currency, amount: str, magnitude: str) -> str:
    whole, _, decimals = amount.partition(".")
    if magnitude:
        return f"{numbers.number(amount)} {magnitude} {currency.many}"
    if len(decimals) != 2 or not currency.cent:
        return f"{numbers.number(amount)} {_name(currency, amount, '')}"
    small = str(int(decimals))
    cents = f"{numbers.cardinal(small)} {currency.cent if small == '1' else currency.cents}"
    if small == "0":
        return f"{numbers.cardinal(whole)} {_name(currency, whole, '')}"
    if not whole.strip("0,"):
        return cents
    return f"{numbers.cardinal(whole)} {_name(currency, whole, '')} {cents}"


def _amount(match: re.Match[str]) -> str:
    currency = _CURRENCIES[match["currency"]]
    spoken = _say(currency, match["amount"], _magnitude(match))
    minus = match["sign"] or match.groupdict().get("minus")  # "-$5" and "$-5"
    return f"{'minus ' if minus else ''}{spoken}{_per(match)}"


def _range(match: re.Match[str]) -> str:
    currency, magnitude = _CURRENCIES[match["currency"]], _magnitude(match)
    last = _say(currency, match["last"], magnitude)
    first = match["amount"]
    spoken = _say(currency, first, "") if "." in first and not magnitude else numbers.number(first)
    return f"{spoken} to {last}{_per(match)}"


def _cents(match: re.Match[str]) -> str:
    return f"{numbers.number(match[1])} {'cent' if match[1] == '1' else 'cents'}"


RULES: tuple[Rule, ...] = (
    rule(
        rf"(?<![\w.])(?P<currency>{_SYMBOL})\s?(?P<amount>{NUMBER})(?:\s?[kKMB]\b)?{TO}"
        rf"(?:(?P=currency)\s?)?(?P<last>{NUMBER}){_MAGNITUDE}{_PER}",
        _range,
    ),
    rule(
        rf"{START}(?P<amount>{NUMBER}){TO}(?P<last>{NUMBER}){_MAGNITUDE}\s?(?P<currency>[€£¥₫]|{_CODE}\b)"
        rf"{_PER}",
        _range,
    ),
    rule(
        rf"(?P<sign>{SIGN})(?<![A-Za-z0-9_.])(?P<currency>{_SYMBOL})\s?(?P<minus>-)?(?P<amount>{NUMBER}"
        rf"|\.\d++){_MAGNITUDE}{_PER}",
        _amount,
    ),
    rule(rf"(?P<sign>)\b(?P<currency>{_CODE})\s?(?P<amount>{NUMBER}){_MAGNITUDE}{_PER}", _amount),
    rule(
        rf"(?P<sign>{SIGN}){START}(?P<amount>{NUMBER}){_MAGNITUDE}\s?(?P<currency>[€£¥₹₽₺₫$](?!\d)|{_CODE}\b)"
        rf"{_PER}",
        _amount,
    ),
    rule(rf"{START}({NUMBER})\s?¢", _cents),
)
