"""What of a text can be spoken: pictographs, invisible characters and markup are removed.

Everything here scans forward once: no work grows faster than the text. Numbers and
abbreviations are not spelled out: the engine's front end knows its language better.
"""

# The curly quotes, dashes and full-width marks below are the subject, not typos.

from __future__ import annotations

import html
import html.entities
import re
import unicodedata
from dataclasses import dataclass

_WHITESPACE = {
    **dict.fromkeys(map(ord, "\t\u00a0\u1680\u202f\u205f\u3000"), " "),
    **dict.fromkeys(range(0x2000, 0x200B), " "),
    **dict.fromkeys(map(ord, "\r\v\f\x85\u2028\u2029"), "\n"),
}
# Pictographs and shapes. Left out on purpose: sharps and flats, circled and
# dingbat numbers, the (c), (r) and TM signs, all of which are read aloud.
_EMOJI = re.compile(
    "(?: ?[\u2194-\u2199\u21a9\u21aa\u231a\u231b\u2328\u23cf\u23e9-\u23fa\u24c2\u2500-\u266c"
    "\u2670-\u2775\u2794-\u27bf\u2800-\u28ff\u2b00-\u2bff\u3030\u303d\u3297\u3299"
    "\U0001f000-\U0001f0ff\U0001f10d-\U0001fbef])++"
)
_STRAY_JOINER = re.compile(
    "(?<![\u0900-\u0dff])[\u200c\u200d]|[\u200c\u200d](?![\u0900-\u0dff])"
)  # between Indic letters they choose the conjunct, hence the sound
# More marks on one base than Unicode's Stream-Safe Text Format (UAX #15) allows
# are noise, and ordering them takes normalisation quadratic time.
_MAX_MARKS = 30

_TAG_BODY = (
    r"/?+(?P<name>[A-Za-z][\w:.-]*+)\s*+"
    # Without a "=" words after the name are prose: "a <b and c> d".
    r"""(?:/?>|(?<=\s)(?=[^<>]*=)(?:[^<>"']++|"[^"<]*+"|'[^'<]*+'|["'])*+>)"""
    r"|!--(?:[^<-]++|-(?!->)|<(?!!--))*+-->|![A-Za-z][^<>]*+>|\?[^<>]*+>"
    r"|(?P<address>https?://[^\s<>]++|[^\s<>@]++@[^\s<>]++)>"
)
_TAG = re.compile(f"<(?:{_TAG_BODY})")
_WOULD_BE_TAG = re.compile(f"<(?={_TAG_BODY})")
_PARAGRAPH_TAG = re.compile(
    "p|div|h[1-6r]|li|[uo]l|table|tr|blockquote|section|article|pre|title", re.IGNORECASE
)
_SPACING_TAG = re.compile("br|break|s|sentence|t[dh]|d[td]|option", re.IGNORECASE)

_ENTITY = re.compile(r"&(#\d{1,7}|#[xX][0-9A-Fa-f]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
_FENCE = re.compile(r"^[ ]*+(?:`{3,}+|~{3,}+)[ ]*+[\w+#.-]*+[ ]*+$", re.MULTILINE)
_RULE = re.compile(r"^[ ]*+([-*_=])(?:[ ]*+\1){2,}+[ ]*+$", re.MULTILINE)
_LINE_PREFIX = re.compile(
    r"^[ ]*+(?P<marks>(?:(?:>|[-*•](?=[ ])(?:[ ]++\[[ xX]\](?=[ ]))?|#{1,6}+(?=[ ]))[ ]*+)++)"
    r"(?P<rest>[^\n]*+)",
    re.MULTILINE,
)
_LINK = re.compile(
    r"!?\[([^\[\]\n]*+)\]\([^()\s]*+(?:\([^()\s]*+\)[^()\s]*+)*+"
    r"(?:[ ]++(?:\"[^\"\n]*+\"|'[^'\n]*+'))?\)"
)
_DELIMITER = re.compile(r"\*++|_++|~~++|\n\s*\n")
_SPACES = re.compile(" {2,}")
_LINE_BREAKS = re.compile(" ?\n[ \n]*+")
_MARKUP = {ord(mark): " " for mark in "<>&*_~`[#•=-"}
_PASSES = 8


@dataclass(frozen=True, slots=True)
class SpeakableText:
    """A text without what cannot be spoken.

    Attributes:
        text: What is left, in NFC, with single spaces, line and paragraph breaks.
        removed: How many characters were removed; white space is not counted.
    """

    text: str
    removed: int


def has_speech(text: str) -> bool:
    """Tell whether there is at least one letter or number (Unicode L* or N*) to say."""
    return any(map(str.isalnum, text))


def speakable(text: str) -> SpeakableText:
    """Remove what cannot be spoken: pictographs, invisible characters and markup.

    Entities are decoded after tags are removed, so an escaped tag stays as text:
    "&lt;b&gt;" becomes "< b>", spaced so that it is no tag for the next reader.
    A removed heading or bullet leaves a paragraph break, so that items stay apart.

    Args:
        text: Any string, lone surrogates included.

    Returns:
        The text, which ``speakable`` would not change again, and the count removed.
    """
    removed = 0
    for _ in range(_PASSES):
        cleaned, count = _clean_once(text)
        if cleaned == text:
            return SpeakableText(text, removed)
        text, removed = cleaned, removed + count
    # Markup nested this deep is an attack or an accident; no mark of it is spoken.
    flat = speakable(text.translate(_MARKUP))
    return SpeakableText(flat.text, removed + _visible(text) - _visible(flat.text))


def _clean_once(text: str) -> tuple[str, int]:
    text = text.replace("\r\n", "\n").translate(_WHITESPACE)
    bare = _TAG.sub(_tag_gap, _drop_characters(text))
    decoded = _ENTITY.sub(_decode, unicodedata.normalize("NFC", bare))
    plain = _strip_markdown(decoded)
    removed = _visible(text) - _visible(bare) + _visible(decoded) - _visible(plain)
    spaced = _SPACES.sub(" ", _WOULD_BE_TAG.sub("< ", plain))
    lines = _LINE_BREAKS.sub(lambda m: "\n\n" if m[0].count("\n") > 1 else "\n", spaced)
    return lines.strip(), removed


def _visible(text: str) -> int:
    return len(text) - text.count(" ") - text.count("\n")


def _drop_characters(text: str) -> str:
    text = _EMOJI.sub(_emoji_gap, text)
    # Categories are looked up once for each distinct character, not for each one.
    distinct = set(text)
    text = text.translate({ord(character): None for character in filter(_is_mute, distinct)})
    text = _STRAY_JOINER.sub("", text)
    marks = "".join(filter(unicodedata.combining, distinct))
    if marks:
        text = re.sub(f"([{marks}]{{{_MAX_MARKS}}})[{marks}]++", r"\1", text)
    return text


def _is_mute(character: str) -> bool:
    if character in "\n\u200c\u200d":
        return False
    return (
        unicodedata.category(character)[0] == "C"
        or "\ufe00" <= character <= "\ufe0f"
        or "\U000e0100" <= character <= "\U000e01ef"
        or character in "\u20e3\ufffc\ufffd"
    )


def _emoji_gap(match: re.Match[str]) -> str:
    following = match.string[match.end() : match.end() + 1]
    return "" if following in ",.!?…" else " "  # also "" at the end of the text


def _tag_gap(match: re.Match[str]) -> str:
    if match["address"]:
        return match["address"]
    name = match["name"] or ""
    if _PARAGRAPH_TAG.fullmatch(name):
        return "\n\n"
    return " " if _SPACING_TAG.fullmatch(name) else ""


def _decode(match: re.Match[str]) -> str:
    known = match[1][0] == "#" or f"{match[1]};" in html.entities.html5
    return html.unescape(match[0]) if known else match[0]


def _strip_markdown(text: str) -> str:
    text = _RULE.sub("", _FENCE.sub("", text))
    text = _LINE_PREFIX.sub(_line_without_prefix, text)
    text = _LINK.sub(r"\1", text)
    return _strip_emphasis(text).replace("`", "")


def _line_without_prefix(match: re.Match[str]) -> str:
    if "#" in match["marks"]:
        return f"\n\n{match['rest']}\n\n"
    return match["rest"] if set(match["marks"]) <= set("> ") else f"\n\n{match['rest']}"


def _strip_emphasis(text: str) -> str:
    """Remove pairs of emphasis marks, with CommonMark's stack of delimiter runs."""
    openers: dict[str, list[tuple[int, int, bool]]] = {}
    spans: list[tuple[int, int]] = []
    for run in _DELIMITER.finditer(text):
        mark = run[0][0]
        if mark == "\n":
            openers.clear()
            continue
        start, end = run.span()
        before, after = text[start - 1 : start] or " ", text[end : end + 1] or " "
        inside, goes_on = _in_word(before), _in_word(after)
        opens = not after.isspace() and after not in ")]},.;:!?"
        closes = not before.isspace() and before not in "([{"
        if mark == "_":  # snake_case
            opens, closes = opens and not inside, closes and not goes_on
        stack = openers.setdefault(mark, [])
        while closes and start < end and stack:
            open_start, open_end, open_inside = stack[-1]
            paired = min(end - start, open_end - open_start)
            # Marks inside words are rarely emphasis: 5*3*2, f**k and 4*.
            if open_inside and (goes_on or end - start != open_end - open_start):
                break
            stack.pop()
            spans += [(open_end - paired, open_end), (start, start + paired)]
            start += paired
            if open_start < open_end - paired:
                stack.append((open_start, open_end - paired, open_inside))
        if opens and start < end:
            stack.append((start, end, inside))
    kept, position = [], 0
    for start, end in sorted(spans):
        kept.append(text[position:start])
        position = end
    return "".join([*kept, text[position:]])


def _in_word(character: str) -> bool:
    return character.isalnum() and not is_cjk(character)  # CJK has no spaces around emphasis


def is_cjk(character: str) -> bool:
    """Tell whether a character is of a script that is written without spaces."""
    return "\u2e80" <= character < "\U00040000"
