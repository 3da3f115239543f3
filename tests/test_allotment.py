"""What a replica makes of what it was given: slots that keep pace, and typed failures."""

from __future__ import annotations

import subprocess
import sys

import pytest

from runtime.engines.cuda import as_engine_error
from runtime.errors import EngineFailed, OutOfMemory
from runtime.memory.claims import Allotment
from runtime.speech import LoadReport


def report(sustains: int | None) -> LoadReport:
    return LoadReport(0.0, 0.0, sustains=sustains)


@pytest.mark.parametrize(("sustains", "slots"), [(None, 16), (64, 16), (5, 5), (0, 1)])
def test_auto_gives_no_more_slots_than_keep_real_time(sustains: int | None, slots: int) -> None:
    assert Allotment({}, "", auto=True).slots(16, report(sustains)) == slots


def test_a_number_of_slots_that_somebody_chose_stays() -> None:
    assert Allotment({}, "", auto=False).slots(16, report(5)) == 16


class OutOfMemoryError(RuntimeError):
    """As torch names its own."""


@pytest.mark.parametrize("error", [MemoryError(), OutOfMemoryError("CUDA out of memory")])
def test_a_model_that_may_have_no_more_memory_fails_with_a_type_of_its_own(
    error: Exception,
) -> None:
    told = as_engine_error(error, "magpie")
    assert type(told) is OutOfMemory
    assert "magpie" in str(told)
    assert "lease" in str(told)


def test_any_other_failure_of_a_model_is_named() -> None:
    told = as_engine_error(ValueError("no such token"), "magpie")
    assert type(told) is EngineFailed
    assert str(told) == "magpie failed: ValueError: no such token"


def test_the_allocators_figures_are_nothing_without_torch() -> None:
    code = (
        "import sys; from runtime.engines import cuda\n"
        "print(cuda.allocator_peak(), cuda.allocator_reserved(), cuda.release_cached())\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == ["0", "0", "None"], done.stderr
