"""docs/reference/commands.md, from the command line itself."""

from __future__ import annotations

from typing import Any

import typer
from typer.cli import get_docs_for_click

from runtime.cli.main import app
from runtime.reference.markdown import GENERATED

_HEAD = """
`--json` prints one object on standard output and nothing else. Exit codes: 0 done, 2 bad input,
3 does not fit, 4 the daemon cannot be reached, 1 anything else.
"""


def page() -> str:
    """The whole page; typer's own rendering of what ``--help`` shows."""
    command = typer.main.get_command(app)
    _say_in_full(command)
    context = typer.Context(command, info_name="speech")
    text = get_docs_for_click(obj=command, ctx=context, name="speech", title="Commands")
    title, _, rest = text.partition("\n")
    return f"{title}\n\n{GENERATED}\n\n{_HEAD.strip()}\n\n{rest.strip()}\n"


def _say_in_full(command: Any) -> None:
    """Lists of commands cut their descriptions off at 45 characters, unless they are given."""
    for inner in getattr(command, "commands", {}).values():
        inner.short_help = (inner.help or "").partition("\n\n")[0]
        _say_in_full(inner)
