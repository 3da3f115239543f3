"""Quantities with units: "5 km/h" is "five kilometers per hour"."""

# Dashes, quotes, primes and signs of real texts are the subject, not typos.
# ruff: noqa: RUF001

from __future__ import annotations

import re

from runtime.normalization.english import numbers
from runtime.normalization.english.rule import NUMBER, SIGN, START, TO, Rule, one_of, rule

_SAME = {  # units whose plural is the singular
    "%": "percent", "‰": "per mille", "Hz": "hertz", "kHz": "kilohertz", "MHz": "megahertz",
    "GHz": "gigahertz", "THz": "terahertz", "lx": "lux", "mph": "miles per hour",
    "kph": "kilometers per hour", "km/h": "kilometers per hour", "kmh": "kilometers per hour",
    "m/s": "meters per second", "ft/s": "feet per second", "rpm": "R P M",
    "fps": "frames per second",
    "bpm": "beats per minute", "dpi": "dots per inch", "ppm": "parts per million", "psi": "P S I",
    "bps": "bits per second", "kbps": "kilobits per second", "Kbps": "kilobits per second",
    "Mbps": "megabits per second", "Gbps": "gigabits per second", "MB/s": "megabytes per second",
    "GB/s": "gigabytes per second", "TB/s": "terabytes per second", "°C": "degrees Celsius",
    "°F": "degrees Fahrenheit", "mpg": "miles per gallon", "fl oz": "fluid ounces",
    "sq ft": "square feet", "sq. ft.": "square feet", "sq mi": "square miles",
    "sq km": "square kilometers",
    "ºC": "degrees Celsius", "ºF": "degrees Fahrenheit", "℃": "degrees Celsius",
    "℉": "degrees Fahrenheit",
}  # fmt: skip
_REGULAR = {  # units whose plural ends in "s"
    "nm": "nanometer", "μm": "micrometer", "µm": "micrometer", "mm": "millimeter",
    "cm": "centimeter", "m": "meter", "km": "kilometer", "mi": "mile", "yd": "yard", "yds": "yard",
    "mg": "milligram", "μg": "microgram", "µg": "microgram", "mcg": "microgram", "g": "gram",
    "kg": "kilogram", "kgs": "kilogram", "lb": "pound", "lbs": "pound", "oz": "ounce",
    "ml": "milliliter", "mL": "milliliter", "cl": "centiliter", "dl": "deciliter", "l": "liter",
    "L": "liter", "gal": "gallon", "qt": "quart", "pt": "pint", "tbsp": "tablespoon",
    "tsp": "teaspoon", "ha": "hectare", "ns": "nanosecond", "μs": "microsecond",
    "µs": "microsecond", "ms": "millisecond", "s": "second", "sec": "second", "secs": "second",
    "min": "minute", "mins": "minute", "h": "hour", "hr": "hour", "hrs": "hour", "wk": "week",
    "wks": "week", "mo": "month", "yr": "year", "yrs": "year", "kb": "kilobit",
    "kB": "kilobyte", "KB": "kilobyte", "MB": "megabyte", "GB": "gigabyte", "TB": "terabyte",
    "PB": "petabyte", "KiB": "kibibyte", "MiB": "mebibyte", "GiB": "gibibyte", "TiB": "tebibyte",
    "Mb": "megabit", "Gb": "gigabit", "V": "volt", "mV": "millivolt", "kV": "kilovolt", "W": "watt",
    "mW": "milliwatt", "kW": "kilowatt", "MW": "megawatt", "GW": "gigawatt",
    "Wh": "watt hour", "kWh": "kilowatt hour", "MWh": "megawatt hour", "mA": "milliamp",
    "mAh": "milliamp hour", "Ah": "amp hour", "dB": "decibel", "px": "pixel", "MP": "megapixel",
    "kcal": "kilocalorie", "cal": "calorie", "kJ": "kilojoule", "J": "joule", "kPa": "kilopascal",
    "kΩ": "kilohm", "Ω": "ohm", "°": "degree", "º": "degree", "kt": "knot", "ly": "light year",
}  # fmt: skip
_IRREGULAR = {"ft": ("foot", "feet"), "in.": ("inch", "inches")}
_PER = {  # what stands below in a rate, where it is not the singular of a unit
    "day": "day", "week": "week", "month": "month", "year": "year", "hour": "hour",
    "req": "request",
    "minute": "minute", "second": "second", "person": "person", "d": "day",
}  # fmt: skip
_POWERS = {"²": "square ", "³": "cubic ", "^2": "square ", "^3": "cubic ", "": ""}

_UNIT = one_of(_SAME | _REGULAR | _IRREGULAR)
_BELOW = one_of(_REGULAR | _PER | {"ft": ""})
_RATE = rf"(?:\s?/\s?(?P<below>{_BELOW})(?![\w/]))?"
_END = r"(?![\w°])"


def _name(unit: str, *, one: bool) -> str:
    if unit in _SAME:
        name = _SAME[unit]
        if one:
            return re.sub(r"^(degree|mile|kilometer|meter|frame|beat|part)s\b", r"\1", name)
        return name
    if unit in _REGULAR:
        return _REGULAR[unit] + ("" if one else "s")
    return _IRREGULAR[unit][0 if one else 1]


def _unit(match: re.Match[str], *, one: bool) -> str:
    name = _POWERS[match["power"] or ""] + _name(match["unit"], one=one)
    below = match["below"]
    if not below:
        return name
    return f"{name} per {_PER.get(below) or _name(below, one=True)}"


def _measure(match: re.Match[str]) -> str:
    amount = match["sign"] + match["amount"]
    # A hyphen makes it an adjective, which has no plural: "a 5-km run".
    one = match["amount"] == "1" or match["joint"] == "-"
    return f"{numbers.number(amount)} {_unit(match, one=one)}"


def _range(match: re.Match[str]) -> str:
    first = numbers.number(match["sign"] + match["amount"])
    return f"{first} to {numbers.number(match['last'])} {_unit(match, one=False)}"


def _dimensions(match: re.Match[str]) -> str:
    joint = " times " if "× " in match[0] else " by "
    sides = joint.join(map(numbers.number, re.findall(NUMBER, match["sides"])))
    return f"{sides} {_name(match['unit'], one=False)}" if match["unit"] else sides


def _height(match: re.Match[str]) -> str:
    return f"{numbers.cardinal(match[1])} foot {numbers.cardinal(match[2])}"


def _times(match: re.Match[str]) -> str:
    return f"{numbers.number(match[1])} {'time' if match[1] == '1' else 'times'}"


def _alone(match: re.Match[str]) -> str:
    return _name(match[0], one=False)


RULES: tuple[Rule, ...] = (
    rule(
        rf"{START}(?P<sides>{NUMBER}(?:\s?[x×]\s?{NUMBER}){{1,2}})(?:\s?(?P<unit>{_UNIT}){_END})?(?!\w)",
        _dimensions,
    ),
    rule(r"(?<![\w.])(\d)['’′]\s?(\d{1,2})(?:[\"”″]|''|’’)", _height),
    rule(
        rf"(?P<sign>{SIGN}){START}(?P<amount>{NUMBER})(?:\s?{_UNIT})?{TO}(?P<last>{NUMBER})\s?"
        rf"(?P<unit>{_UNIT})(?P<power>[²³]|\^[23])?{_END}{_RATE}",
        _range,
    ),
    rule(
        rf"(?P<sign>{SIGN}){START}(?P<amount>{NUMBER})(?P<joint>[\s-]?)(?P<unit>{_UNIT})"
        rf"(?P<power>[²³]|\^[23])?{_END}{_RATE}",
        _measure,
    ),
    rule(rf"{START}({NUMBER})[x×](?!\w)", _times),
    rule(r"(?<![\w/])(?:km/h|m/s|MB/s|GB/s|Mbps|Gbps|°C|°F|kWh|mph|fps)(?![\w/])", _alone),
)
