"""``speech memory plan``: exit codes, JSON, and that it loads nothing large."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from memory_plans import shipped, vllm

LOOK = """
import sys
from runtime.cli.main import main
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
print([m for m in ("torch", "nemo", "ray") if m in sys.modules], file=sys.stderr)
"""


@pytest.fixture
def written(tmp_path: Path) -> Any:
    """Write a configuration, and return where it is."""

    def write(document: dict[str, Any]) -> Path:
        path = tmp_path / "mine.yaml"
        path.write_text(yaml.safe_dump(document))
        return path

    return write


def test_config_dgx_spark_fits_a_gb10(speech: Any) -> None:
    result = speech("memory", "plan", "config/dgx-spark.yaml", "--device", "gb10", "--json")
    assert result.code == 0
    told = result.json
    keys = {"total_gib", "kind", "neighbours", "host_reserve_gib", "deployments", "headroom_gib"}
    assert told.keys() >= keys | {"fits", "remedies"}
    assert told["fits"] is True
    assert told["neighbours"][0].keys() == {"name", "gib", "overhead_gib"}
    wanted = {"name", "replicas", "claim_gib", "num_gpus", "slots"}
    assert all(deployment.keys() >= wanted for deployment in told["deployments"])


def test_at_97_percent_it_does_not_fit_and_the_exit_code_says_so(speech: Any, written: Any) -> None:
    path = written(shipped("dgx-spark", neighbours=vllm(0.97)))
    result = speech("memory", "plan", path, "--device", "gb10", "--json")
    assert result.code == 3
    assert result.json["fits"] is False
    assert 1 <= len(result.json["remedies"]) <= 3
    table = speech("memory", "plan", path, "--device", "gb10")
    assert table.code == 3
    assert result.json["remedies"][0] in table.out


@pytest.mark.parametrize(
    ("config", "device", "message"),
    [
        ("dgx-spark", "gb11", "gb10"),
        ("dgx-spak", "gb10", "dgx-spark"),
        ("dgx-spark", str(Path(__file__).parent / "probes" / "cpu.json"), "on a GPU, and there is"),
    ],
)
def test_what_is_not_there_is_bad_input(
    speech: Any, config: str, device: str, message: str
) -> None:
    result = speech("memory", "plan", config, "--device", device)
    assert result.code == 2
    assert message in result.err
    assert "Traceback" not in result.err


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"host_reserve_gib": -1}, "args.memory.host_reserve_gib"),
    ({"headroom_gib": "much"}, "args.memory.headroom_gib"),
    ({"neighbours": [{"name": "vllm", "utilisation": 60}]}, "args.memory.neighbours.0.utilisation"),
    ({"neighbours": [{"name": "vllm", "utilsation": 0.6}]}, "Did you mean 'utilisation'"),
    ({"neighbours": [*vllm(0.7), {"name": "sd", "utilisation": 0.4}]}, "sum to 1.1"),
]


@pytest.mark.parametrize(("memory", "message"), REFUSED)
def test_nonsense_is_refused_by_its_key(
    speech: Any, written: Any, memory: dict[str, Any], message: str
) -> None:
    result = speech("memory", "plan", written(shipped("dgx-spark", **memory)), "--device", "gb10")
    assert result.code == 2
    assert message in result.err


def test_the_command_loads_no_library_of_a_model_and_no_ray(tmp_path: Path) -> None:
    arguments = ("memory", "plan", "dgx-spark", "--device", "gb10", "--json")
    done = subprocess.run(
        [sys.executable, "-c", LOOK, *arguments], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.stderr == "[]\n"
    assert '"fits": true' in done.stdout


@pytest.mark.parametrize(("config", "device"), [("dgx-spark", "gb10"), ("h100", "h100-80g")])
def test_the_documentation_shows_what_the_command_prints(
    speech: Any, config: str, device: str
) -> None:
    command = ("memory", "plan", config, "--device", device)
    page = (Path(__file__).parents[1] / "docs" / "memory.md").read_text()
    assert f"$ speech {' '.join(command)}\n{speech(*command).out}" in page
