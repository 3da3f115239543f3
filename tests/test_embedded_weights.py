from __future__ import annotations

import hashlib
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest

from runtime.engines.embedded.weights import WEIGHT_FILES, WeightFile, verify

_REPOSITORY = Path(__file__).parents[1]
_CONTENT = b"weights " * 1000
_PACKAGE = "speech_runtime_pretend_weights"


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A weight file in an importable package that must not be imported."""
    file = tmp_path / _PACKAGE / "model" / "model.bin"
    file.parent.mkdir(parents=True)
    file.write_bytes(_CONTENT)
    (tmp_path / _PACKAGE / "__init__.py").write_text("raise RuntimeError('was imported')\n")
    monkeypatch.syspath_prepend(tmp_path)
    return file


def _weight(path: str = "model/model.bin", package: str = _PACKAGE) -> WeightFile:
    return WeightFile(
        engine="pretend",
        package=package,
        path=path,
        sha256=hashlib.sha256(_CONTENT).hexdigest(),
        size_bytes=len(_CONTENT),
    )


def test_an_intact_file_passes_and_its_package_is_not_imported(installed: Path) -> None:
    assert verify(_weight()) is None
    assert _PACKAGE not in sys.modules


def test_one_flipped_bit_is_detected(installed: Path) -> None:
    corrupted = bytearray(_CONTENT)
    corrupted[len(corrupted) // 2] ^= 1
    installed.write_bytes(corrupted)
    reason = verify(_weight())
    assert reason is not None
    assert f"{_PACKAGE}/model/model.bin differs: sha256 " in reason


def test_a_file_cut_short_is_detected(installed: Path) -> None:
    installed.write_bytes(_CONTENT[:-1])
    reason = verify(_weight())
    assert reason == f"{_PACKAGE}/model/model.bin differs: 7999 bytes, not 8000"


def test_a_file_that_is_gone_is_called_missing(installed: Path) -> None:
    installed.unlink()
    assert verify(_weight()) == f"{_PACKAGE}/model/model.bin is missing"


def test_a_package_that_is_not_installed_is_named() -> None:
    absent = "speech_runtime_absent_package"
    assert verify(_weight(package=absent)) == f"{absent} is not installed"


@pytest.mark.parametrize(
    "weight", WEIGHT_FILES, ids=lambda weight: f"{weight.engine}-{weight.path}"
)
def test_the_installed_weights_are_those_the_project_was_measured_with(weight: WeightFile) -> None:
    if find_spec(weight.package) is None:
        pytest.skip(f"{weight.package} is not installed: pip install '.[embedded]'")
    assert verify(weight) is None


def test_the_hashed_wheels_are_the_versions_of_the_embedded_extra() -> None:
    project = tomllib.loads((_REPOSITORY / "pyproject.toml").read_text())["project"]
    lines = (_REPOSITORY / "embedded-weights.txt").read_text().splitlines()
    hashed = {line.removesuffix("\\").strip() for line in lines if "==" in line}
    pinned = {one for one in project["optional-dependencies"]["embedded"] if "==" in one}
    assert hashed == pinned


def test_the_constraints_hold_every_version_the_project_pins() -> None:
    project = tomllib.loads((_REPOSITORY / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    wanted = [*project["dependencies"], *(line for extra in extras for line in extra)]
    pins = {_pin(line) for line in wanted if "==" in line.partition(";")[0]}
    lines = (_REPOSITORY / "constraints.txt").read_text().splitlines()
    assert pins <= {_pin(line) for line in lines if line and not line.startswith("#")}


def _pin(requirement: str) -> tuple[str, str]:
    name, _, version = requirement.partition(";")[0].partition("==")
    return name.partition("[")[0].strip().lower().replace("_", "-"), version.strip()
