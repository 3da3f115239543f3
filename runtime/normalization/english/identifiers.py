"""What is told digit by digit or in pairs: telephones, codes, rooms, versions, serials."""

from __future__ import annotations

import re

from runtime.normalization.english import numbers, spelling
from runtime.normalization.english.rule import Rule, rule

_GROUP = re.compile(r"\d+|[A-Z]+")


def _groups(match: re.Match[str]) -> str:
    """Say groups of digits with a pause after each; "800" as a hundred, as it is told."""
    groups = []
    for group in _GROUP.findall(match[0]):
        if group.isalpha():
            groups.append(group)
        else:
            toll_free = len(group) == 3 and group.endswith("00")
            groups.append(numbers.cardinal(group) if toll_free else numbers.digits(group))
    plus = "plus " if match[0].lstrip("(").startswith("+") else ""
    return plus + ", ".join(groups)


def _lead_and_digits(match: re.Match[str]) -> str:
    return f"{match['lead']}{numbers.digits(match['figures'])}"


def _lead_and_groups(match: re.Match[str]) -> str:
    groups = ", ".join(map(numbers.digits, match["figures"].split("-")))
    return f"{match['lead'].replace('#', '')}{groups}"


def _lead_and_pairs(match: re.Match[str]) -> str:
    return f"{match['lead']}{numbers.pairs(match['figures'])}"


def _pairs(match: re.Match[str]) -> str:
    return numbers.pairs(match[0])


def _digits(match: re.Match[str]) -> str:
    return numbers.digits(match[0])


def _points(text: str) -> str:
    return " point ".join(map(numbers.cardinal, text.split(".")))


def _version(match: re.Match[str]) -> str:
    return f"version {_points(match['figures'])}"


def _lead_and_points(match: re.Match[str]) -> str:
    return f"{match['lead']}{_points(match['figures'])}"


def _dotted(match: re.Match[str]) -> str:
    return _points(match[0])


def _mixed(match: re.Match[str]) -> str:
    return spelling.mixed(match[0])


_SECRET = r"code|PIN|pin|OTP|passcode|password|extension|ext\.?|zip code|ZIP code|ZIP|zip|postcode"
_RECORD = (
    r"account|order|confirmation|reference|ref|tracking|ticket|case|invoice|booking|reservation"
    r"|serial|card|routing|policy|member|customer|employee|claim|record|ID|id"
)
_MARK = r"(?:\s?(?:numbers?|code|no\.|id|ID|ending in|ends in|ending|#)){1,2}(?: is| was)?:?"
"""What makes a number a code: "order 150" may be dollars, "order number 150" is none."""
_STREET = (
    r"(?:St|Street|Ave|Avenue|Rd|Road|Blvd|Boulevard|Dr|Drive|Ln|Lane|Way|Court|Ct|Place|Pl"
    r"|Square|Terrace|Parkway|Highway|Hwy)\b"
)
_PRODUCT = (
    r"[Vv]ersion|[Rr]elease|Python|iOS|iPadOS|Android|Ubuntu|Debian|macOS|CUDA|Java|Node|Windows"
    r"|Chrome|Firefox|PHP|Ruby|Go|Rust|Django|PyTorch|TensorFlow|Kubernetes|Linux|Swift"
)

TELEPHONES: tuple[Rule, ...] = (
    rule(
        r"(?<![\w.+-])(?:\+?1[-. ]?)?(?:\(\d{3}\)[-. ]?|\d{3}[-. ])\d{3}[-. ]\d{4}(?![\w-])",
        _groups,
    ),
    rule(r"(?<![\w.+-])\+\d{1,3}(?:[ .-]?\(\d{1,4}\)|[ .-]\d{1,4}){2,6}(?![\w-])", _groups),
    rule(r"(?<![\w.+-])\+\d{8,15}(?!\w)", lambda match: f"plus {numbers.digits(match[0])}"),
    rule(r"(?<![\w.+-])(?:1-)?8\d\d-[A-Z]{4,10}\b(?!-)", _groups),
    rule(r"(?<![\w.+-])1-8\d\d-[A-Z0-9]{2,4}-[A-Z0-9]{3,5}\b(?!-)", _groups),
    rule(r"(?<![\w.-])\d{3}-\d{2}-\d{4}(?![\w-])", _groups),
    rule(r"(?<![\w.-])\d{4}(?:([ -])\d{4})(?:\1\d{4}){1,3}(?![\w-])", _groups),
    rule(
        r"\b(?P<lead>(?i:call|dial|text|phone|number|tel\.?)(?: is)?:? )"
        r"(?P<figures>\d{3}-\d{4})(?![\w-])",
        _lead_and_groups,
    ),
    rule(r"(?<![\w.-])555-\d{4}(?![\w-])", _groups),
    rule(
        r"\b(?P<lead>(?:(?i:dial|dialing) (?=\d)|(?i:call|calling|text) (?=[2-9]11)))"
        r"(?P<figures>\d{3})(?![\w,.-]\d|\w)",
        _lead_and_digits,
    ),
    rule(r"(?<![\w$.,#-])911(?![\w%-]|[.,]\d)", _digits),
)

CODES: tuple[Rule, ...] = (
    rule(
        rf"\b(?P<lead>(?:{_SECRET})(?:{_MARK}| is| was)?[\s:#]{{1,3}})"
        rf"(?P<figures>\d{{3,}}+(?:-\d{{2,}}+){{0,4}})"
        r"(?![\w%]|[.,]\d)",
        _lead_and_groups,
    ),
    rule(
        rf"\b(?P<lead>(?:{_RECORD}){_MARK}[\s:#]{{0,3}})(?P<figures>\d{{3,}}+(?:-\d{{2,}}+){{0,4}})"
        r"(?![\w%]|[.,]\d)",
        _lead_and_groups,
    ),
    rule(
        r"\b(?P<lead>(?i:room|suite|apartment|apt\.?|flight|gate|bus|route|highway"
        r"|interstate|building) "
        r"(?:[A-Z]{2} )?#?)(?P<figures>[1-9]\d{2,3})(?![\w%]|[.,]\d)",
        _lead_and_pairs,
    ),
    rule(rf"(?<![\w$.,/-])[1-9]\d{{2,3}}(?=(?: [A-Z][a-z]{{1,20}}){{1,3}} {_STREET})", _pairs),
)

VERSIONS: tuple[Rule, ...] = (
    rule(r"(?<![\w.])[vV](?:er\.?)? ?(?P<figures>\d++(?:\.\d++)*+)(?=[^\w]|\Z)", _version),
    rule(
        rf"\b(?P<lead>(?:{_PRODUCT}) )(?P<figures>\d++(?:\.\d++){{1,4}})(?![\w%])", _lead_and_points
    ),
    rule(r"(?<![\w.])\d++(?:\.\d++){2,}+", _dotted),
)

SERIALS: tuple[Rule, ...] = (
    # Each look-ahead starts where a word starts, so a word is read a fixed number of times.
    rule(r"(?<![\w-])401\s?\(?k\)?(?!\w)", lambda _: "four oh one K", re.IGNORECASE),
    rule(
        r"(?<![A-Za-z0-9-])(?=[A-Za-z-]*+\d)(?=[0-9-]*+[A-Za-z])[A-Za-z0-9]++(?:-[A-Za-z0-9]++)*+",
        _mixed,
    ),
)
