"""A dictionary of ten words for OpenJTalk, which reads Japanese.

pyopenjtalk has none of its own: at the first Japanese sentence it downloads 23 MB from
GitHub into its package folder, unless ``OPEN_JTALK_DICT_DIR`` names a dictionary when it is
imported. So must whoever serves Japanese without a network.

OpenJTalk kills the process on a sentence of more than 8 191 bytes (2 730 full-width
characters), and on a word whose letters or reading take more than 1 023: with this
dictionary, on some eighty unknown letters in a row.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tiny_tongues import JAPANESE

_COMPILE = """
import ctypes, sys
from pyopenjtalk import openjtalk
arguments = [b"mecab-dict-index", b"-f", b"UTF-8", b"-t", b"UTF-8", b"-d", b".", b"-o", b"."]
sys.exit(ctypes.CDLL(openjtalk.__file__).mecab_dict_index(
    len(arguments), (ctypes.c_char_p * (len(arguments) + 1))(*arguments, None)))
"""


def build_openjtalk(folder: Path) -> Path:
    """Compile the dictionary into ``folder``, with the compiler inside pyopenjtalk."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, lines in {
        "dicrc": [
            "cost-factor = 800",
            "bos-feature = BOS/EOS,*,*,*,*,*,*,*,*",
            "eval-size = 8",
            "unk-eval-size = 4",
            "config-charset = UTF-8",
        ],
        "matrix.def": ["1 1", "0 0 0"],
        "char.def": ["DEFAULT 1 0 0", "SPACE 0 1 0", "0x0020 SPACE"],
        "unk.def": ["DEFAULT,0,0,9000,フィラー,*,*,*,*,*,*", "SPACE,0,0,9000,記号,空白,*,*,*,*,*"],
        "words.csv": [
            f"{word},0,0,100,{pos},{group},*,*,*,*,{word},{pron},{pron},{accent},{rule}"
            for word, pos, group, pron, accent, rule in JAPANESE
        ],
    }.items():
        (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    # In a process of its own: it writes to standard output from C.
    command = [sys.executable, "-c", _COMPILE]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return folder


def use_openjtalk(folder: Path) -> None:
    """Make this process and its children read Japanese with the dictionary in ``folder``."""
    os.environ["OPEN_JTALK_DICT_DIR"] = str(folder)
    if pyopenjtalk := sys.modules.get("pyopenjtalk"):
        pyopenjtalk.OPEN_JTALK_DICT_DIR = str(folder).encode()
