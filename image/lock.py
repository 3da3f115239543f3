"""Resolve what the images install: every package, for arm64 and x86-64, by version and content.

    python image/lock.py            # write the locks anew
    python image/lock.py --check    # are they what pyproject.toml and constraints.txt lead to?

(`make image-lock` and `make image-check`.)

The versions are those of constraints.txt; what that leaves to torch (CUDA, Triton) is resolved
here. A lock names for each package the one wheel of either machine, so that nothing is compiled
unnoticed: what has no wheel is in ``SOURCES``, with its reason. Needs ``uv`` and the index that
pip uses, no Python 3.12 and no arm64 machine.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.tags import Tag, compatible_tags, cpython_tags
from packaging.utils import parse_wheel_filename

HERE = Path(__file__).parent
ROOT = HERE.parent

IMAGES: Mapping[str, tuple[str, ...]] = {
    "speech": ("embedded", "nemo"),
    "bot": ("bots",),
}
"""The extras of each image; its lock is ``<name>.lock``."""

MACHINES = ("aarch64", "x86_64")
PYTHON = (3, 12)
_GLIBC = 36  # 2.36, of Debian 12: the image's base

SOURCES: Mapping[str, str] = {
    "antlr4-python3-runtime": "pure Python, released as a source archive only",
    "cdifflib": "a C file; its wheels are for other systems",
    "docopt": "pure Python, released as a source archive only",
    "jieba": "pure Python, released as a source archive only",
    "pyopenjtalk": "C++ and Cython, by CMake: half a minute",
    "wget": "pure Python, released as a source archive only",
}
"""What is built where the image is built, and why."""


@dataclass(frozen=True, slots=True)
class Pin:
    """A package of a lock.

    Attributes:
        name: Its name, normalised.
        version: The one version.
        machines: Where it is installed.
        hashes: SHA-256 of the files that may be installed.
    """

    name: str
    version: str
    machines: tuple[str, ...]
    hashes: tuple[str, ...]

    def __str__(self) -> str:
        """Lines of a requirements file."""
        marker = "" if self.machines == MACHINES else f" ; {_marker(self.machines)}"
        lines = [f"{self.name}=={self.version}{marker}"]
        return " \\\n".join([*lines, *(f"    --hash=sha256:{digest}" for digest in self.hashes)])


def resolve(constraints: Iterable[str]) -> dict[str, list[Pin]]:
    """Every package of each image, in one resolution: what images share is the same in all.

    Raises:
        SystemExit: It does not resolve, or a package has no wheel and is not in ``SOURCES``.
    """
    with tempfile.TemporaryDirectory(prefix="lock-") as folder:
        project = Path(folder, "pyproject.toml")
        project.write_text(_project(constraints), encoding="utf-8")
        _uv("lock", "--directory", folder)
        locked = tomllib.loads(Path(folder, "uv.lock").read_text(encoding="utf-8"))
        packages = {(each["name"], each.get("version")): each for each in locked["package"]}
        return {image: _pins(folder, extras, packages) for image, extras in IMAGES.items()}


def _pins(folder: str, extras: Iterable[str], packages: Mapping[Any, Any]) -> list[Pin]:
    exported = _uv(
        "export", "--directory", folder, "--frozen", "--format", "requirements-txt",
        "--no-header", "--no-annotate", "--no-emit-project", "--no-hashes",
        *(f"--extra={extra}" for extra in extras),
    )  # fmt: skip
    pins = []
    for line in exported.splitlines():
        asked = Requirement(line)
        version = next(iter(asked.specifier)).version
        machines = tuple(m for m in MACHINES if _applies(asked, m))
        files = [_file(packages[asked.name, version], machine) for machine in machines]
        pins.append(Pin(asked.name, version, machines, tuple(dict.fromkeys(files))))
    return sorted(pins, key=lambda pin: pin.name)


def read_lock(path: Path) -> list[Pin]:
    """The packages of a lock that was written before; none if there is none."""
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8").replace("\\\n", " ")
    pins = []
    for line in text.splitlines():
        if not line or line.startswith("#"):
            continue
        spec, *hashes = re.split(r"\s+--hash=sha256:", line.strip())
        asked = Requirement(spec)
        machines = tuple(m for m in MACHINES if _applies(asked, m))
        version = next(iter(asked.specifier)).version
        pins.append(Pin(asked.name, version, machines, tuple(hashes)))
    return pins


def write_lock(path: Path, pins: Iterable[Pin]) -> None:
    """Write a lock that ``pip install --require-hashes`` takes."""
    head = (
        f"# What the image {path.stem!r} installs on arm64 and x86-64: of each package one wheel\n"
        "# for either machine. Written by image/lock.py (`make image-lock`); do not edit.\n\n"
    )
    path.write_text(head + "".join(f"{pin}\n" for pin in pins), encoding="utf-8")


def differences(lock: Iterable[Pin], resolved: Iterable[Pin]) -> Iterator[str]:
    """What a lock has otherwise than it was resolved, a line each."""
    ours, theirs = ({pin.name: pin for pin in pins} for pins in (lock, resolved))
    for name in sorted(ours.keys() | theirs.keys()):
        if name not in ours:
            yield f"{name} {theirs[name].version} is missing"
        elif name not in theirs:
            yield f"{name} {ours[name].version} is not needed"
        elif ours[name] != theirs[name]:
            yield f"{name}: {_said(ours[name])} is locked, {_said(theirs[name])} was resolved"


def _said(pin: Pin) -> str:
    return f"{pin.version} on {', '.join(pin.machines)} ({', '.join(h[:8] for h in pin.hashes)})"


def _project(constraints: Iterable[str]) -> str:
    """pyproject.toml for uv: our dependencies, the constraints, and the two machines."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    text = text.replace('dynamic = ["version"]', 'version = "0"')
    machines = [f"sys_platform == 'linux' and {_marker((m,))} and {_python()}" for m in MACHINES]
    options = {"environments": machines, "constraint-dependencies": list(constraints)}
    return text + "\n[tool.uv]\n" + "".join(f"{k} = {json.dumps(v)}\n" for k, v in options.items())


def _python() -> str:
    major, minor = PYTHON
    return (
        f"python_full_version >= '{major}.{minor}' and python_full_version < '{major}.{minor + 1}'"
    )


def _marker(machines: Iterable[str]) -> str:
    return " or ".join(f"platform_machine == '{machine}'" for machine in machines)


def _applies(asked: Requirement, machine: str) -> bool:
    if asked.marker is None:
        return True
    major, minor = PYTHON
    environment = {
        **default_environment(),
        "sys_platform": "linux",
        "platform_system": "Linux",
        "os_name": "posix",
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
        "platform_machine": machine,
        "python_version": f"{major}.{minor}",
        "python_full_version": f"{major}.{minor}.1",
    }
    return asked.marker.evaluate(environment)


def _file(package: Mapping[str, Any], machine: str) -> str:
    """SHA-256 of what is installed there: the wheel, or the sources if they are in ``SOURCES``."""
    fitting = []
    for wheel in package.get("wheels", ()):
        tags = parse_wheel_filename(wheel["url"].rpartition("/")[2].replace("%2B", "+"))[3]
        ranks = [_tags(machine)[tag] for tag in tags if tag in _tags(machine)]
        if ranks:
            fitting.append((min(ranks), wheel["hash"]))
    name, version = package["name"], package["version"]
    if fitting:
        return str(min(fitting)[1]).removeprefix("sha256:")
    if name in SOURCES:
        return str(package["sdist"]["hash"]).removeprefix("sha256:")
    raise SystemExit(
        f"{name} {version} has no wheel for {machine}. Take a version that has one, or add it to "
        "SOURCES, and what builds it to image/build.txt."
    )


@cache
def _tags(machine: str) -> dict[Tag, int]:
    """The wheels that pip would take in the image, with their rank: lower is better."""
    platforms = [f"manylinux_2_{minor}_{machine}" for minor in range(_GLIBC, 4, -1)]
    platforms += [f"manylinux{year}_{machine}" for year in ("2014", "2010", "1")]
    platforms.append(f"linux_{machine}")
    interpreter = f"cp{PYTHON[0]}{PYTHON[1]}"
    supported = [
        *cpython_tags(PYTHON, platforms=platforms),
        *compatible_tags(PYTHON, interpreter, platforms),
    ]
    return {tag: rank for rank, tag in enumerate(supported)}


def _uv(*arguments: str) -> str:
    command = [sys.executable, "-m", "uv", *arguments, "--quiet", "--no-python-downloads"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(
            f"uv {arguments[0]}: {done.stderr.strip()}\nIf a lock is in the way: make image-lock"
        )
    return done.stdout


def _constraints() -> list[str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def main() -> None:
    """Write the locks, check them, or print a part of one."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="Write nothing; 1 if one differs.")
    parser.add_argument(
        "--sources", choices=IMAGES, help="Print what is built from source of this image's lock."
    )
    arguments = parser.parse_args()
    if arguments.sources:
        lock = read_lock(HERE / f"{arguments.sources}.lock")
        print("\n".join(str(pin) for pin in lock if pin.name in SOURCES))
        return
    wrong = _renew(check=arguments.check)
    if wrong:
        raise SystemExit("\n".join([*wrong, "Write the locks anew: make image-lock"]))


def _renew(*, check: bool) -> list[str]:
    """Write the locks, or with ``check`` only say what they have otherwise."""
    paths = {image: HERE / f"{image}.lock" for image in IMAGES}
    locks = {image: read_lock(path) for image, path in paths.items()}
    # A check must not fail because something newer has come out: the locks' versions hold.
    held = {f"{pin.name}=={pin.version}" for lock in locks.values() for pin in lock if check}
    wrong: list[str] = []
    for image, pins in resolve([*_constraints(), *sorted(held)]).items():
        if check:
            wrong += [f"{paths[image].name}: {line}" for line in differences(locks[image], pins)]
        else:
            write_lock(paths[image], pins)
        built = ", ".join(pin.name for pin in pins if pin.name in SOURCES)
        print(f"{paths[image].name}: {len(pins)} packages; from source: {built}")
    return wrong


if __name__ == "__main__":
    main()
