"""The README's commands and code, executed as they are written."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from runtime.config import speech_applications

pytestmark = [pytest.mark.cluster, pytest.mark.apart]

ROOT = Path(__file__).parents[1]
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)


def commands() -> list[str]:
    """The shell's lines, with Python blocks as scripts, in the order of the page."""
    lines = []
    for language, body in BLOCKS:
        if language == "sh":
            lines += body.strip().splitlines()
        if language == "python":
            lines.append(f"python - <<'END'\n{body}END")
    return lines


def test_the_page_names_the_three_commands() -> None:
    assert {"make run", "make bot", "make test"} <= set(commands())


def test_the_commands_work_as_written(shell) -> None:
    # `make run` and `make bot` would wait for Ctrl-C, and `make test` is what runs this.
    elsewhere = ("make bot", "make test")  # the bot: test_bot_page.py
    script = ["set -e", *(line for line in commands() if line not in elsewhere)]
    script[script.index("make run")] = "make run ONCE=1"
    made = ("fox.wav", "hello.wav", "first-words.wav")
    present = {name for name in made if (ROOT / name).exists()}
    with tempfile.TemporaryDirectory(prefix="readme-") as folder:
        environment = shell | {
            "SPEECH_STATE_DIR": f"{folder}/state",
            "SPEECH_TEMP_DIR": f"{folder}/ray",
        }
        try:
            done = subprocess.run(
                ["bash", "-c", "\n".join(script)],
                cwd=ROOT,
                env=environment,
                capture_output=True,
                text=True,
                timeout=280,
            )
        finally:
            subprocess.run(
                [sys.executable, "-m", "runtime.cli.main", "down"],
                env=environment,
                capture_output=True,
                check=False,
            )
            wavs = {name: (ROOT / name).exists() for name in made}
            for name in set(made) - present:
                (ROOT / name).unlink(missing_ok=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert all(wavs.values()), wavs
    assert done.stdout.count("The quick brown fox jumps over the lazy dog.") == 2
    assert re.search(r"^heard\s+Hello. I can speak", done.stdout, flags=re.MULTILINE)
    assert "Started <" not in done.stderr
    assert "Hello from Python." in done.stdout


def test_the_bot_is_a_pipeline_of_fifteen_lines() -> None:
    from types import SimpleNamespace

    from pipecat.processors.filters.identity_filter import IdentityFilter

    (source,) = (body for language, body in BLOCKS if language == "py")
    written: dict[str, Any] = {}
    exec(source, written)
    ends = SimpleNamespace(input=IdentityFilter, output=IdentityFilter)

    async def build() -> list[str]:
        return [type(p).__name__ for p in written["bot"](ends, IdentityFilter()).processors]

    names = asyncio.run(build())
    assert names.index("ServeSTTService") < names.index("ServeTTSService")
    code = [line for line in source.splitlines() if line.strip()]
    assert len(code) <= 15


def test_the_configuration_is_one_that_serve_takes() -> None:
    (document,) = (yaml.safe_load(body) for language, body in BLOCKS if language == "yaml")
    assert set(speech_applications(document, "README")) == {"speech"}
    checked = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys, yaml; from ray.serve.schema import ServeDeploySchema; "
            "ServeDeploySchema.model_validate(yaml.safe_load(sys.stdin))",
        ],
        input=yaml.safe_dump(document),
        text=True,
        capture_output=True,
    )
    assert checked.returncode == 0, checked.stderr
