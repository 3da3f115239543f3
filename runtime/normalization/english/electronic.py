"""Addresses as they are read out: URLs, host names, e-mail, paths, file names, tags."""

from __future__ import annotations

import re

from runtime.normalization.english import numbers, spelling
from runtime.normalization.english.rule import Rule, one_of, rule, words

_TOP_LEVEL = one_of(
    words(
        """
    com org net edu gov mil int info biz io ai app dev co us uk de fr es it vn cn in jp eu ca
    au ch nl se no fi dk be at pl br mx me tv xyz cloud tech online shop site
    """
    )
)
_EXTENSION = one_of(
    words(
        """
    pdf doc docx xls xlsx ppt pptx txt csv json yaml yml xml html md py js ts sh zip gz tar
    png jpg jpeg gif svg wav mp3 mp4 mov avi exe dmg iso log cfg ini toml sql nemo
    """
    )
)
_MARKS = {
    ".": "dot", "/": "slash", "-": "dash", "_": "underscore", "@": "at", ":": "colon",
    "?": "question mark", "=": "equals", "&": "and", "#": "hash", "%": "percent", "+": "plus",
    "~": "tilde", "!": "exclamation mark", "$": "dollar", "*": "star", "\\": "backslash",
    ",": "comma", ";": "semicolon", "(": "", ")": "",
}  # fmt: skip
_PIECE = re.compile(r"[A-Za-z]+|\d+|[^\W\d_]+|.", re.DOTALL)
_TRAILING = ".,;:!?)'\""
_CAMEL = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+|[^\W\d_]+")


def _say_address(address: str) -> str:
    words = []
    for piece in _PIECE.findall(address):
        if piece.isdecimal():
            words.append(_figures(piece))
        elif piece.isascii() and piece.isalpha():
            words.append(_label(piece))
        else:
            words.append(_MARKS.get(piece, piece))
    return " ".join(filter(None, words))


def _figures(run: str) -> str:
    short = len(run) < 3 and run[0] != "0"
    return numbers.cardinal(run) if short else numbers.digits(run)


def _label(word: str) -> str:
    """Say a part of an address: "www", "io" and "pdf" by letter, "com" and names as words."""
    if word.lower() in _SAID_AS_WORDS or (len(word) > 3 and not word.isupper()):
        return word
    if word.lower() in _SPELLED or (word.isupper() and spelling.is_spelled(word)):
        return spelling.spell(word)
    return spelling.letters(word) if word.islower() and len(word) > 2 else spelling.spell(word)


_SAID_AS_WORDS = words(
    """
    me co at in it no be my to go
    """
)
_SPELLED = words("www edu api html http https url")


def _url(match: re.Match[str]) -> str:
    address = match["address"]
    bare = address.rstrip(_TRAILING)
    return _say_address(bare.rstrip("/")) + address[len(bare) :] if bare else match[0]


def _plain(match: re.Match[str]) -> str:
    return _say_address(match[0])


def _hashtag(match: re.Match[str]) -> str:
    words = []
    for word in _CAMEL.findall(match["tag"]):
        if word.isdecimal():
            is_year = len(word) == 4 and word[0] in "12"
            words.append(numbers.year(word) if is_year else numbers.cardinal(word))
        else:
            words.append(spelling.spell(word) if spelling.is_spelled(word) else word)
    return f"hashtag {' '.join(words)}"


def _octets(match: re.Match[str]) -> str:
    return " dot ".join(map(numbers.digits, match[0].split(".")))


RULES: tuple[Rule, ...] = (
    # The scheme is not said: nobody does.
    rule(r"\b(?:https?|ftp|file|wss?)://(?P<address>[^\s<>\"]++)", _url, re.IGNORECASE),
    rule(r"(?<![\w.+-])[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,8}", _plain),
    rule(r"(?<![\w.@-])(?P<address>www\.[\w-]{1,63}(?:\.[\w-]{1,63}){1,8}(?:/[^\s<>\"]*+)?)", _url),
    rule(
        r"(?<![\w.@/-])(?P<address>(?=[\w.-]{0,120}[A-Za-z])[A-Za-z0-9][\w-]{0,62}"
        rf"(?:\.[\w-]{{1,63}}){{0,6}}\.(?i:{_TOP_LEVEL})\b(?![\w-]|\.\w)(?:[/?#][^\s<>\"]*+)?)",
        _url,
    ),
    rule(
        rf"(?<![\w.@/-])[\w-]{{1,63}}(?:\.[\w-]{{1,63}}){{0,4}}\.(?i:{_EXTENSION})\b(?![\w-]|\.\w)",
        _plain,
    ),
    rule(
        r"(?<![\w.])(?:25[0-5]|2[0-4]\d|1?\d?\d)(?:\.(?:25[0-5]|2[0-4]\d|1?\d?\d)){3}(?![\w.]\w|\w)",
        _octets,
    ),
    rule(r"(?<![\w/.~])~?(?:/[\w-]++(?:\.\w++)*+){2,}+/?", _plain),
    rule(r"(?<![\w#&])#(?P<tag>(?=\w{0,60}[^\W\d_])\w++)", _hashtag),
    rule(r"(?<![\w@])@(?P<tag>(?=\w{0,60}[^\W\d_])\w++)", _plain),
)
