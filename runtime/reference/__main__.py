"""``python -m runtime.reference docs``: write the generated pages into a folder's ``reference``."""

from __future__ import annotations

import sys
from pathlib import Path

from runtime.reference.pages import PAGES

if __name__ == "__main__":
    folder = Path(sys.argv[1]) / "reference"
    folder.mkdir(parents=True, exist_ok=True)
    for name, page in PAGES.items():
        (folder / name).write_text(page(), encoding="utf-8")
