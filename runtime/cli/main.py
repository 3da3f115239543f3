"""Entry point of ``speech``: the verbs, and errors as exit codes.

0 done, 2 bad input, 3 does not fit, 4 daemon not reachable, 1 anything else.
"""

from __future__ import annotations

import sys

import typer
from pydantic import ValidationError
from rich.markup import escape

import runtime
from runtime.cli import accept, bench, daemon, doctor, listen, memory, models, speak
from runtime.cli.output import notes, print_json, quieten_ray
from runtime.errors import SpeechError

app = typer.Typer(
    name="speech",
    help="Speech recognition and synthesis for voice agents, beside your LLM on one GPU.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.command()(daemon.up)
app.command()(daemon.down)
app.command()(daemon.status)
app.command()(speak.say)
app.command()(listen.transcribe)
app.command()(speak.voices)
app.command()(doctor.doctor)
app.command()(accept.accept)
app.add_typer(memory.app, name="memory")
app.add_typer(models.app, name="models")
app.add_typer(bench.app, name="bench")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"speech-runtime {runtime.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True),
) -> None:
    """Speech recognition and synthesis for voice agents, beside your LLM on one GPU."""


def main() -> None:
    """Run the command line; never returns."""
    quieten_ray()
    try:
        app()
    except SpeechError as error:
        if "--json" in sys.argv:
            print_json({"error": str(error), "type": type(error).__name__})
        notes.print(f"[red]error:[/] {escape(str(error))}", soft_wrap=True)
        sys.exit(error.exit_code)
    except ValidationError as error:  # of the settings: whatever else is validated says so itself
        for problem in error.errors():
            name = f"SPEECH_{'_'.join(map(str, problem['loc'])).upper()}"
            notes.print(f"[red]error:[/] {name} (or its option): {escape(problem['msg'])}")
        sys.exit(2)
    except BrokenPipeError:
        sys.exit(1)


if __name__ == "__main__":
    main()
