"""``speech models``: NVIDIA's checkpoints by pinned revision."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from runtime.cli.output import console, notes, print_json
from runtime.errors import HubError, InvalidRequest
from runtime.memory.footprint import GIB
from runtime.models.catalogue import CATALOGUE, Model, find, with_needs
from runtime.models.hub import Hub, Token
from runtime.models.pull import Order, Pulled
from runtime.models.pull import pull as pull_models
from runtime.models.store import missized, place, wanted
from runtime.models.transfer import Report
from runtime.models.verify import Verdict
from runtime.models.verify import verify as verify_model
from runtime.settings import Settings

app = typer.Typer(
    help="NVIDIA's checkpoints: what there is, what is here, and getting it.",
    no_args_is_help=True,
    add_completion=False,
)

_Json = typer.Option(False, "--json", help="Print one JSON object.")


@app.command("list")
def list_models(as_json: bool = _Json) -> None:
    """List the models, their revisions and licences, and which are here."""
    settings = Settings()
    rows = [_row(model, settings) for model in CATALOGUE.values()]
    if as_json:
        lock = str(settings.models_lock)
        print_json({"models_dir": str(settings.models_dir), "lock": lock, "models": rows})
        return
    lines = [("model", "for", "repository", "revision", "here", "GiB", "NeMo", "licence")]
    for row in rows:
        revision = f"{row['commit'][:12]} ({row['origin']})" if row["commit"] else row["origin"]
        size = "" if row["size"] is None else f"{row['size'] / GIB:.2f}"
        here = "yes" if row["pulled"] else "no"
        line = (row["name"], row["for"], row["repo"], revision, here, size, row["nemo"])
        lines.append((*line, row["licence"]))
    # No rich table: it would cut names short where the terminal is narrow.
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for cells in lines:
        text = "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
        console.print(text.rstrip(), soft_wrap=True, markup=False)
    console.print(f"in {settings.models_dir}", soft_wrap=True, markup=False)


@app.command()
def pull(
    names: list[str] | None = typer.Argument(None, metavar="NAME...", help="See `models list`."),
    everything: bool = typer.Option(False, "--all", help="All of them."),
    check: bool = typer.Option(
        False, "--check", help="Only ask the hub whether they may be downloaded."
    ),
    revision: str | None = typer.Option(
        None, "--revision", help="A branch, tag or commit of one model; later pulls stay with it."
    ),
    source: Path | None = typer.Option(
        None, "--from", help="A folder with the files, or a Hugging Face cache; asks no hub."
    ),
    as_json: bool = _Json,
) -> None:
    """Get models, and what they need, by the revision that is pinned or locked."""
    asked = _models(names, everything)
    if revision is not None and len(asked) != 1:
        raise InvalidRequest("--revision is of one model: name that one.")
    if check and source is not None:
        raise InvalidRequest("--check asks the hub, and --from does without it: give one of them.")
    if source is not None and not source.exists():
        raise InvalidRequest(f"--from {source}: there is no such file or folder.")
    settings = Settings()
    orders = [
        Order(model, revision if model in asked else None, source) for model in with_needs(asked)
    ]
    if check:
        _check(orders, settings, as_json)
        return
    done = []
    with _progress(as_json) as report:
        for pulled in pull_models(orders, settings, _hub, report, _waiting):
            done.append(_pulled_row(pulled))
            if not as_json:
                commit, path = pulled.pin.commit[:12], escape(str(pulled.path))
                where = "was here" if pulled.source == "here" else f"from the {pulled.source}"
                notes.print(f"[green]ok[/]  {pulled.model.name} {commit}, {where}: {path}")
    if as_json:
        print_json({"models": done})


@app.command()
def verify(
    names: list[str] | None = typer.Argument(
        None, metavar="[NAME...]", help="By default all that are here."
    ),
    as_json: bool = _Json,
) -> None:
    """Compare what is here with its pin: content, licence and shape. Exit code 1 if it differs.

    A model that is named and not here fails as well.
    """
    settings = Settings()
    models = [find(name) for name in names] if names else list(CATALOGUE.values())
    with _progress(as_json) as report:
        verdicts = [verify_model(model, settings, report) for model in models]
    good = all(not v.mismatches and (v.pulled or not names) for v in verdicts)
    if as_json:
        print_json({"ok": good, "models": [_verdict_row(verdict) for verdict in verdicts]})
    else:
        for verdict in verdicts:
            _print_verdict(verdict)
    raise typer.Exit(0 if good else 1)


def _models(names: list[str] | None, everything: bool) -> list[Model]:
    if bool(names) == everything:
        raise InvalidRequest(f"Name models, or give --all. Models: {', '.join(CATALOGUE)}.")
    found = [find(name) for name in names] if names else list(CATALOGUE.values())
    return list({model.name: model for model in found}.values())


def _hub() -> Hub:
    return Hub(Token.from_environment())


def _waiting() -> None:
    notes.print("another pull is under way; waiting for it ...")


def _check(orders: list[Order], settings: Settings, as_json: bool) -> None:
    hub = _hub()
    rows: list[dict[str, Any]] = []
    for order in orders:
        pin = wanted(order.model, settings).pin
        revision = order.revision or (pin.commit if pin else None)
        row: dict[str, Any] = {
            "name": order.model.name,
            "repo": order.model.repo,
            "revision": revision,
        }
        try:
            hub.check(order.model, revision)
        except HubError as error:
            row |= {"accessible": False, "error": str(error)}
        else:
            row |= {"accessible": True, "error": ""}
        rows.append(row)
        if not as_json:
            verdict = "[green]ok[/]  " if row["accessible"] else "[red]no[/]  "
            console.print(f"{verdict}{row['name']}  {escape(row['error'])}", soft_wrap=True)
    good = all(row["accessible"] for row in rows)
    if as_json:
        print_json({"ok": good, "token": hub.token.variable, "models": rows})
    else:
        console.print(str(hub.token), soft_wrap=True, markup=False)
    raise typer.Exit(0 if good else 1)


@contextmanager
def _progress(quiet: bool) -> Iterator[Report]:
    """A bar for each file on a terminal, and a line for each in a log; on standard error."""
    bars = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        console=notes,
        disable=quiet or not notes.is_terminal,
    )
    tasks: dict[str, Any] = {}

    def report(name: str, done: int, total: int) -> None:
        if name not in tasks:
            tasks[name] = bars.add_task(name, total=total)
            if bars.disable and not quiet:
                notes.print(f"{name}: {total / GIB:.2f} GiB ...", markup=False)
        bars.update(tasks[name], completed=done)

    with bars:
        yield report


def _row(model: Model, settings: Settings) -> dict[str, Any]:
    want = wanted(model, settings)
    pin = want.pin
    pulled = pin is not None and missized(model, pin, place(settings, model, pin.commit)) == (
        [],
        [],
    )
    return {
        "name": model.name,
        "aliases": list(model.aliases),
        "for": model.purpose,
        "repo": model.repo,
        "page": model.page,
        "origin": want.origin,
        "commit": pin.commit if pin else None,
        "pulled": pulled,
        "size": sum(pin.files[name].size for name in model.files) if pin else None,
        "nemo": model.nemo,
        "licence": model.licence,
        "gated": model.gated,
    }


def _pulled_row(pulled: Pulled) -> dict[str, Any]:
    return {
        "name": pulled.model.name,
        "repo": pulled.model.repo,
        "commit": pulled.pin.commit,
        "path": str(pulled.path),
        "size": sum(file.size for file in pulled.pin.files.values()),
        "source": pulled.source,
    }


def _verdict_row(verdict: Verdict) -> dict[str, Any]:
    return {
        "name": verdict.model.name,
        "commit": verdict.commit,
        "pulled": verdict.pulled,
        "ok": verdict.pulled and not verdict.mismatches,
        "mismatches": [
            {"what": wrong.what, "expected": wrong.expected, "found": wrong.found}
            for wrong in verdict.mismatches
        ],
    }


def _print_verdict(verdict: Verdict) -> None:
    name = verdict.model.name
    if not verdict.pulled:
        console.print(f"[yellow]none[/]  {name}: not pulled", soft_wrap=True)
        return
    colour, word = ("red", "fail") if verdict.mismatches else ("green", "pass")
    console.print(f"[{colour}]{word}[/]  {name} {verdict.commit[:12]}", soft_wrap=True)
    for wrong in verdict.mismatches:
        console.print(
            f"      {wrong.what}: expected {wrong.expected}, found {wrong.found}",
            soft_wrap=True,
            markup=False,
        )
