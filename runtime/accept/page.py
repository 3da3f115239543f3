"""The report as one page of Markdown, as an issue or a mail takes it."""

from __future__ import annotations

from typing import Any

_MARKS = {"pass": "pass", "warn": "**warn**", "fail": "**FAIL**"}
_LATENCIES = ("min", "p50", "p90", "p99", "max")


def page(report: dict[str, Any]) -> str:
    """Everything that is in the JSON object, to be read."""
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    parts = [
        f"# speech accept: {_MARKS[report['verdict']]}",
        f"`{report['command']}`, {report['date']}, commit {report['commit']}\n\n"
        f"- configuration: {report['config']} ({report['daemon']})\n"
        f"- machine: {report['device']}\n- versions: {versions}\n"
        f"- took {report['seconds']:.0f} s",
        _table(
            [
                {"part": section["name"], "verdict": _MARKS[section["verdict"]]}
                for section in report["sections"]
            ]
        ),
    ]
    for section in report["sections"]:
        parts.append(f"## {section['name']}")
        if about := section["about"]:
            parts.append(f"{about[0].upper()}{about[1:]}.")
        if section["findings"]:
            parts.append(_table([_finding(finding) for finding in section["findings"]]))
        for title, rows in section["tables"].items():
            parts += [f"### {title}", _table(rows) if rows else "nothing"]
    parts.append("Latencies are min / p50 / p90 / p99 / max in ms.")
    return "\n\n".join(parts) + "\n"


def _finding(finding: dict[str, Any]) -> dict[str, Any]:
    seconds = finding["seconds"]
    return {
        "verdict": _MARKS[finding["verdict"]],
        "of": finding["subject"],
        "what": finding["what"],
        "found": finding["found"],
        "what to do": finding["mend"],
        "s": "" if seconds is None else f"{seconds:.1f}",
    }


def _table(rows: list[dict[str, Any]]) -> str:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    lines += ["| " + " | ".join(_cell(row.get(c)) for c in columns) + " |" for row in rows]
    return "\n".join(lines)


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        return " / ".join(f"{value[key]:g}" for key in _LATENCIES) if value.get("n") else ""
    text = "" if value is None else str(value)
    return text.replace("|", "\\|").replace("\n", "<br>")
