"""What is held back while NeMo loads comes again, however many engines load at once."""

from __future__ import annotations

import sys
import threading
import warnings
from importlib.util import find_spec
from pathlib import Path

import pytest

from runtime.engines.nemo import import_nemo, quietly


def silent() -> bool:
    action, message, *_ = warnings.filters[0]
    return action == "ignore" and not message


def test_warnings_are_back_when_the_last_of_two_models_is_restored() -> None:
    turns = [threading.Event() for _ in range(3)]
    seen: list[bool] = []

    def first() -> None:
        with quietly():
            seen.append(silent())
            turns[0].set()
            turns[1].wait(30)
        seen.append(silent())
        turns[2].set()

    def second() -> None:
        turns[0].wait(30)
        with quietly():
            turns[1].set()
            turns[2].wait(30)
            seen.append(silent())

    threads = [threading.Thread(target=one) for one in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert seen == [True, True, True]
    assert not silent()
    with pytest.warns(UserWarning, match="again"):
        warnings.warn("seen again", UserWarning, stacklevel=1)


@pytest.mark.skipif(find_spec("nemo") is None, reason="needs the extra `nemo`")
def test_an_import_leaves_on_what_others_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "logs_while_imported.py").write_text(
        "import logging\n"
        "logging.getLogger('nv_one_logger.api').warning('no telemetry')\n"
        "logging.getLogger('runtime.engines').warning('from another thread')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "logs_while_imported", raising=False)
    import_nemo("logs_while_imported")
    assert [record.message for record in caplog.records] == ["from another thread"]
