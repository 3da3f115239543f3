"""Times of the day, time zones, and ratios, which are written alike."""

from __future__ import annotations

import re

from runtime.normalization.english import numbers
from runtime.normalization.english.rule import TO, Rule, kept_stop, rule

_HALF = r"(?:[AaPp]\.\s?[Mm]\.|[AaPp][Mm]\b)"
_ZONES = "UTC|GMT|EST|EDT|CST|CDT|MST|MDT|PST|PDT|CET|CEST|EET|BST|IST|JST|AEST|AEDT|ET|CT|MT|PT|Z"
_ZONE = rf"(?:\s?(?P<zone>{_ZONES})\b(?:(?P<way>[+-])(?P<offset>\d{{1,2}})(?::?00)?)?)?"
_HOUR, _MINUTE = r"(?:[01]?\d|2[0-4])", r"[0-5]\d"


def _half(written: str | None) -> str:
    return f" {written[0].upper()} M" if written else ""


def _zone(match: re.Match[str]) -> str:
    if not match["zone"]:
        return ""
    name = "U T C" if match["zone"] == "Z" else " ".join(match["zone"])
    if not match["way"]:
        return f" {name}"
    way = "plus" if match["way"] == "+" else "minus"
    return f" {name} {way} {numbers.cardinal(str(int(match['offset'])))}"


def _clock(hour: str, minute: str | None, half: str | None) -> str:
    spoken = numbers.cardinal(str(int(hour)))
    if minute is None:
        return spoken
    if minute != "00":
        return f"{spoken} {numbers.two_digits(minute)}"
    if half:
        return spoken
    if int(hour) in (0, 24):
        return "midnight"
    return f"{spoken} o'clock" if int(hour) < 13 else f"{spoken} hundred"


def _time(match: re.Match[str]) -> str:
    half = match["half"]
    spoken = _clock(match["hour"], match["minute"], half) + _half(half) + _zone(match)
    return spoken + ("" if match["zone"] else kept_stop(match))


def _range(match: re.Match[str]) -> str:
    first = _clock(match["hour"], match["minute"], match["half"] or match["last_half"])
    last = _clock(match["last"], match["last_minute"], match["last_half"])
    ends = f"{first}{_half(match['half'])} to {last}{_half(match['last_half'])}"
    return ends + kept_stop(match)


def _with_seconds(match: re.Match[str]) -> str:
    if match["second"] == "00" and len(match["hour"]) == 2:
        return _clock(match["hour"], match["minute"], None) + _zone(match)
    hours, minutes, seconds = (str(int(match[name])) for name in ("hour", "minute", "second"))
    spoken = [
        f"{numbers.cardinal(value)} {unit}{'' if value == '1' else 's'}"
        for value, unit in ((hours, "hour"), (minutes, "minute"), (seconds, "second"))
        if value != "0"
    ]
    *rest, last = spoken or ["zero hours"]
    return (f"{' '.join(rest)} and {last}" if rest else last) + _zone(match)


def _ratio(match: re.Match[str]) -> str:
    return f"{numbers.cardinal(match[1])} to {numbers.cardinal(match[2])}"


def _alone(match: re.Match[str]) -> str:
    return _zone(match).strip()


RULES: tuple[Rule, ...] = (
    rule(
        rf"(?<![\w.:/-])(?P<hour>{_HOUR})(?::(?P<minute>{_MINUTE}))?\s?(?P<half>{_HALF})?{TO}"
        rf"(?P<last>{_HOUR})(?::(?P<last_minute>{_MINUTE}))?\s?(?P<last_half>{_HALF})",
        _range,
    ),
    rule(
        rf"(?<![\w.:/-])(?P<hour>{_HOUR}):(?P<minute>{_MINUTE})(?P<half>){TO}(?P<last>{_HOUR}):"
        rf"(?P<last_minute>{_MINUTE})(?P<last_half>)(?![\d:])",
        _range,
    ),
    rule(
        rf"(?<![\w.:/-])(?P<hour>\d{{1,2}}):(?P<minute>{_MINUTE}):(?P<second>{_MINUTE})(?:\.\d++)?"
        rf"(?![\d:]){_ZONE}",
        _with_seconds,
    ),
    rule(
        rf"(?<![\w.:/,-])(?P<hour>{_HOUR})(?::(?P<minute>{_MINUTE}))?\s?(?P<half>{_HALF}){_ZONE}",
        _time,
    ),
    rule(
        rf"(?<![\w.:/,-])(?P<hour>{_HOUR}):(?P<minute>{_MINUTE})(?P<half>)(?![\d:]){_ZONE}", _time
    ),
    rule(r"(?<![\w.:/-])(\d{1,3}):(\d{1,3})(?![\w:/])", _ratio),
    rule(r"\b(?P<zone>UTC|GMT)(?P<way>[+-])(?P<offset>\d{1,2})(?::?00)?\b", _alone),
)
