"""Mini dictionaries and test sentences for tiny Magpie checkpoints, one language each.

The tokenisers are the classes and the options of NVIDIA's two public generations, under
the names and in the order that their archives have (the order gives the offsets of the
token ids). ``text_ce_tokenizer`` reads descriptions of voices, not the text.
"""

# ruff: noqa: RUF001 - other scripts look like this one.

from __future__ import annotations

from pathlib import Path
from typing import Any

BYT5 = "google/byt5-small"
LANGUAGES = ("en", "es", "de", "fr", "vi", "it", "zh", "hi", "ja")

SENTENCES = {
    "en": "Hello world, this is a test of the speech system.",
    "es": "Hola mundo, ¿cómo estás hoy?",
    "de": "Hallo Welt, wie geht es dir heute?",
    "fr": "Bonjour le monde, ça va très bien.",
    "vi": "Xin chào thế giới, hôm nay bạn khỏe không?",
    "it": "Ciao mondo, perché non è così?",
    "zh": "你好世界，今天天气很好。",
    "hi": "नमस्ते दुनिया, आप कैसे हैं।",
    "ja": "こんにちは、世界。今日は晴れです。",
}
"""A sentence of which the dictionaries know every word."""

TOKENIZERS = {
    1: {
        "en": "english_phoneme",
        "es": "spanish_phoneme",
        "de": "german_phoneme",
        "zh": "mandarin_phoneme",
        "ja": "japanese_phoneme",
        "fr": "french_chartokenizer",
        "hi": "hindi_chartokenizer",
        "it": "italian_phoneme",
        "vi": "vietnamese_phoneme",
        None: "text_ce_tokenizer",
    },
    2: {
        "en": "english_phoneme",
        None: "text_ce_tokenizer",
        "es": "spanish_phoneme",
        "de": "german_phoneme",
        "zh": "mandarin_phoneme",
        "ja": "japanese_phoneme",
        "hi": "hindi_phoneme",
        "fr": "french_chartokenizer",
        "it": "italian_chartokenizer",
        "vi": "vietnamese_chartokenizer",
    },
}
"""Frame stacking -> language -> tokeniser, in the archive's order.

The second generation calls three of them by names that NeMo 3.0's own map of languages does
not have: there ``do_tts`` reads Hindi, Italian and Vietnamese with the English tokeniser. What
is right stands in the archive's ``language_to_tokenizer_mapping``, which NeMo 3.0 ignores. That
generation has Portuguese, Korean and Arabic too, which are left out here.
"""

NEMO_VERSIONS = {1: "2.6.0rc0", 2: "2.8.0rc0"}
"""Frame stacking -> the NeMo that wrote it, from which NeMo infers older vocabularies."""

ENGLISH = {
    "hello": "həˈɫoʊ",
    "world": "ˈwɝɫd",
    "this": "ˈðɪs",
    "is": "ˈɪz",
    "a": "ə",
    "test": "ˈtɛst",
    "of": "ˈəv",
    "the": "ðə",
    "speech": "ˈspitʃ",
    "system": "ˈsɪstəm",
    "text": "ˈtɛkst",
    "to": "ˈtu",
    "good": "ˈɡʊd",
    "morning": "ˈmɔɹnɪŋ",
    "how": "ˈhaʊ",
    "are": "ˈɑɹ",
    "you": "ˈju",
    "one": "ˈwən",
    "two": "ˈtu",
    "three": "ˈθɹi",
}
SPANISH = {
    "hola": "ˈola",
    "mundo": "ˈmundo",
    "cómo": "ˈkomo",
    "estás": "esˈtas",
    "hoy": "ˈoj",
    "buenos": "ˈbwenos",
    "días": "ˈdias",
    "la": "la",
    "casa": "ˈkasa",
}
GERMAN = {
    "Hallo": "haˈloː",
    "Welt": "ˈvɛlt",
    "wie": "ˈviː",
    "geht": "ˈɡeːt",
    "es": "ˈɛs",
    "dir": "ˈdiːɐ",
    "heute": "ˈhɔøtə",
    "guten": "ˈɡuːtən",
    "Tag": "ˈtaːk",
    "schön": "ˈʃøːn",
}
HINDI = {
    "नमस्ते": "nəməsteː",
    "दुनिया": "dʊnɪjaː",
    "आप": "aːp",
    "कैसे": "kɛːseː",
    "हैं": "hɛ̃ː",
    "आज": "aːdʒ",
    "अच्छा": "ətʃʰaː",
    "hello": "hɛloː",
}
MANDARIN = {
    "ni": "n i",
    "hao": "h au",
    "shi": "ʂ ɨ",
    "jie": "tɕ ie",
    "jin": "tɕ in",
    "tian": "tʰ ian",
    "qi": "tɕʰ i",
    "hen": "h ən",
    "wo": "w o",
    "men": "m ən",
    "xie": "ɕ ie",
}
JAPANESE = (
    # surface, part of speech, its group, pronunciation, accent/morae, chaining rule
    ("こんにちは", "感動詞", "*", "コンニチワ", "0/5", "-1"),
    ("世界", "名詞", "一般", "セカイ", "1/3", "C1"),
    ("今日", "名詞", "副詞可能", "キョー", "1/2", "C1"),
    ("は", "助詞", "係助詞", "ワ", "0/1", "名詞%F1"),
    ("晴れ", "名詞", "一般", "ハレ", "2/2", "C3"),
    ("です", "助動詞", "*", "デス", "1/2", "名詞%F2@1"),
    ("私", "名詞", "代名詞", "ワタシ", "0/3", "C3"),
    ("猫", "名詞", "一般", "ネコ", "1/2", "C3"),
    ("。", "記号", "句点", "、", "*/*", "*"),
    ("、", "記号", "読点", "、", "*/*", "*"),
)

_TTS = "nemo.collections.common.tokenizers.text_to_speech.tts_tokenizers."
_G2P = "nemo.collections.tts.g2p.models."


def tokenizer_configs(
    stacking: int, languages: tuple[str, ...], folder: Path, byt5: str | Path
) -> dict[str, dict[str, Any]]:
    """``text_tokenizers`` of a checkpoint; dictionaries are written into ``folder``."""
    return {
        name: _config(name, stacking, folder, byt5)
        for language, name in TOKENIZERS[stacking].items()
        if language is None or language in languages
    }


def _config(name: str, stacking: int, folder: Path, byt5: str | Path) -> dict[str, Any]:
    if name == "english_phoneme":
        heteronyms = _write(folder / "heteronyms-mini", ["live", "read"])
        return _ipa("en-US", ENGLISH, folder, pad=False, heteronyms=heteronyms)
    if name == "spanish_phoneme":
        return _ipa("es-ES", SPANISH, folder)
    if name == "german_phoneme":
        heteronyms = _write(folder / "de_mini.heteronym", ["modern"])
        mixed = {"grapheme_case": "mixed", "grapheme_prefix": "#"}
        return _ipa("de-DE", GERMAN, folder, heteronyms=heteronyms, **mixed)
    if name == "hindi_phoneme":
        return _ipa("hi-IN", HINDI, folder)
    if name == "mandarin_phoneme":
        lines = [f"{syllable}\t{ipa}" for syllable, ipa in MANDARIN.items()]
        g2p = {
            "_target_": _G2P + "zh_cn_pinyin.ChineseG2p",
            "phoneme_dict": _write(folder / "ipa_mini.txt", lines),
            "word_segmenter": "jieba",
            "phoneme_prefix": "",
            "phoneme_case": "lower",
            "tone_prefix": "#",
            "ascii_letter_prefix": "",
            "ascii_letter_case": "upper",
        }
        return _tokenizer("ChinesePhonemesTokenizer", g2p=g2p)
    if name == "japanese_phoneme":
        g2p = {
            "_target_": _G2P + "ja_jp_ipa.JapaneseKatakanaAccentG2p",
            "ascii_letter_prefix": "",
            "ascii_letter_case": "upper" if stacking == 1 else "lower",
        }
        return _tokenizer("JapanesePhonemeTokenizer", apostrophe=False, g2p=g2p)
    if name == "hindi_chartokenizer":
        return _tokenizer("HindiCharsTokenizer")
    return {"_target_": "AutoTokenizer", "pretrained_model": str(byt5)}


def _tokenizer(kind: str, **options: Any) -> dict[str, Any]:
    common = {"punct": True, "apostrophe": True, "pad_with_space": True}
    return {"_target_": _TTS + kind, **common, **options}


def _ipa(
    locale: str, words: dict[str, str], folder: Path, *, pad: bool = True, **options: Any
) -> dict[str, Any]:
    from nemo.collections.common.tokenizers.text_to_speech.ipa_lexicon import (
        get_grapheme_character_set,
    )

    # As in a whole dictionary, every letter is in some word: else unknown words lose theirs.
    case = options.get("grapheme_case", "upper")
    letters = {letter: "ə" for letter in get_grapheme_character_set(locale, case) if letter != "।"}
    lines = [f"{word}  {ipa}" for word, ipa in (letters | words).items()]
    elsewhere = {} if locale == "en-US" else {"locale": locale}
    g2p = {
        "_target_": _G2P + "i18n_ipa.IpaG2p",
        **elsewhere,
        "phoneme_dict": _write(folder / f"{locale}_mini.dict", lines),
        "phoneme_probability": 0.8,
        "ignore_ambiguous_words": False,
        "use_chars": True,
        "use_stresses": True,
        **options,
    }
    return _tokenizer("IPATokenizer", **elsewhere, pad_with_space=pad, g2p=g2p)


def _write(path: Path, lines: list[str]) -> str:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)
