"""OpenJTalk's dictionary, without which Japanese cannot be read.

pyopenjtalk has none of its own: at the first sentence it downloads 23 MB into its package's
folder. Here nothing is fetched while an engine runs: the dictionary is there, or the engine
starts without Japanese and says so.
"""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path

VARIABLE = "OPEN_JTALK_DICT_DIR"
"""What pyopenjtalk reads when it is imported."""

DEBIAN = Path("/var/lib/mecab/dic/open-jtalk/naist-jdic")
"""Where Debian's package ``open-jtalk-mecab-naist-jdic`` puts it."""

MEND = (
    f"apt-get install open-jtalk-mecab-naist-jdic, or set {VARIABLE} to an unpacked "
    f"open_jtalk_dic_utf_8-1.11"
)

_PACKAGE_FOLDER = "open_jtalk_dic_utf_8-1.11"
_FILE = "sys.dic"  # of a compiled dictionary


def find_dictionary() -> Path | None:
    """The dictionary's folder: as the environment says, pyopenjtalk's own, or Debian's."""
    named = os.environ.get(VARIABLE)
    if named:
        return Path(named) if (Path(named) / _FILE).is_file() else None
    spec = find_spec("pyopenjtalk")
    package = Path(spec.origin).parent / _PACKAGE_FOLDER if spec and spec.origin else None
    folders = (package, DEBIAN)
    return next((f for f in folders if f is not None and (f / _FILE).is_file()), None)


def use_dictionary(folder: Path) -> None:
    """Let this process read Japanese with it."""
    os.environ[VARIABLE] = str(folder)
    pyopenjtalk = sys.modules.get("pyopenjtalk")
    if pyopenjtalk is not None:
        pyopenjtalk.OPEN_JTALK_DICT_DIR = str(folder).encode()  # type: ignore[attr-defined]
