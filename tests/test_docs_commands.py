"""Every command and option that a page names is one that there is."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from runtime.cli.main import app

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCED = re.compile(r"^```(?:sh|console)\n(.*?)^```", flags=re.DOTALL | re.MULTILINE)
SPEECH = typer.main.get_command(app)
INLINE = re.compile(r"`(speech [^`]+)`")


def commands(page: Path) -> list[str]:
    """What a page says to run: lines of its shell blocks, and commands within sentences."""
    text = page.read_text(encoding="utf-8")
    lines = [
        line.removeprefix("$ ") for block in FENCED.findall(text) for line in block.split("\n")
    ]
    lines += [found.replace("\n", " ") for found in INLINE.findall(FENCED.sub("", text))]
    return [line for line in lines if line.startswith("speech ")]


def wrong(line: str) -> str:
    """What of a command there is not; empty if there is all of it."""
    words = shlex.split(line.split(" | ")[0].split(" && ")[0], comments=True)[1:]
    command: Any = SPEECH
    options = set(known(command))
    for word in words:
        name = word.partition("=")[0]
        if word.startswith("-") and word not in ("-", "..."):
            if name not in options:
                return f"{word!r} in {line!r}"
        elif getattr(command, "commands", None) is not None:
            if word not in command.commands:
                alternatives = [part for part in word.split("|") if part]
                if set(alternatives) <= command.commands.keys() and len(alternatives) > 1:
                    return ""  # any of them
                return f"{word!r} in {line!r}"
            command = command.commands[word]
            options |= known(command)
    return ""


def known(command: Any) -> set[str]:
    names = (name for p in command.params for name in (*p.opts, *p.secondary_opts))
    return {*names, "--help"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_names_no_command_that_there_is_not(page: Path) -> None:
    assert [found for line in commands(page) if (found := wrong(line))] == []


def test_what_there_is_not_is_found() -> None:
    assert "'seay'" in wrong("speech seay hello")
    assert "'--lowd'" in wrong("speech say hello --lowd")
    assert wrong("speech say 'hello' -o x.wav --json") == ""
