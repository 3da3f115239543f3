"""NVIDIA's models at their public sizes with random weights, for a GPU without the real ones.

`python tests/support/random_models.py FOLDER` makes them side by side, in a minute or two and 6 GB,
and FOLDER/h100.yaml, which is the shipped configuration with these weights: `speech up` takes it,
and what is measured there holds for the real weights but for what is said and heard.
"""

from __future__ import annotations

import argparse
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).parent))

import tiny_magpie
import tiny_parakeet

from runtime.config import find_config


def magpie(folder: Path, full: bool) -> None:
    """Magpie of 2026 and its codec; each chunk is spoken to its end, and then cut."""
    codec = tiny_magpie.build_codec(folder / "codec.nemo", full=full)
    tiny_magpie.build_magpie(
        folder / "magpie.nemo", codec, full=full, peaked=False, eos_bias=-100.0
    )


def parakeet(folder: Path, full: bool) -> None:
    """For recordings."""
    tiny_parakeet.build_offline(folder / "parakeet.nemo", full=full)


def parakeet_streaming(folder: Path, full: bool) -> None:
    """For live streams."""
    tiny_parakeet.build_streaming(folder / "streaming.nemo", full=full)


def configuration(folder: Path) -> dict[str, Any]:
    """The shipped `h100`, with the models in a folder."""
    document: dict[str, Any] = yaml.safe_load(find_config("h100").read_text())
    (application,) = document["applications"]
    asr, tts = application["args"]["asr"], application["args"]["tts"]
    asr["live"]["options"]["weights"] = str(folder / "streaming.nemo")
    asr["file"]["options"]["weights"] = str(folder / "parakeet.nemo")
    tts["options"] |= {
        "weights": str(folder / "magpie.nemo"),
        "codec": str(folder / "codec.nemo"),
        "max_utterance_s": 8,  # they never end by themselves
        "normalizer": "rules",
    }
    return document


def main() -> None:
    """See the top of the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tiny", action="store_true", help="small ones, to try what follows")
    given = parser.parse_args()
    folder = given.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "h100.yaml").write_text(yaml.safe_dump(configuration(folder), sort_keys=False))
    with ProcessPoolExecutor(3, mp_context=get_context("spawn")) as pool:
        builders = (magpie, parakeet, parakeet_streaming)
        for made in [pool.submit(build, folder, not given.tiny) for build in builders]:
            made.result()
    print(f"{folder}: {', '.join(sorted(path.name for path in folder.iterdir()))}")


if __name__ == "__main__":
    main()
