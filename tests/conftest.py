"""One daemon for all tests that need one, and one event loop: handles are tied to it."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest
import yaml
from daemons import SUPPORT, place

from runtime.bench.private import private_daemon
from runtime.config import find_config
from runtime.daemon import (
    DaemonRecord,
    adopt_environment,
    make_token,
    own_cluster_environment,
    python_version,
    ray_version,
    running_daemon,
)
from runtime.settings import Settings
from runtime.speech import PROTOCOL_VERSION

T = TypeVar("T")
Run = Callable[[Coroutine[Any, Any, T]], T]

HERE = Path(__file__).parent
ROOT = HERE.parent


@pytest.hookimpl(optionalhook=True)  # of xdist
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Two processes share the suite: what shares a cluster is one's, other files go to either."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            text = (ROOT / file).read_text()
            return "cluster" if "mark.cluster" in text and "mark.apart" not in text else file

    return ByFile(config, log)


def _locks() -> tuple[Path, Path]:
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID", str(os.getpid()))
    folder = Path(tempfile.gettempdir())
    return folder / f"speech-tests-{run}.turn", folder / f"speech-tests-{run}.lock"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[Any]:
    """A test that measures time or memory runs while the other process stands still."""
    timed = item.get_closest_marker("timed") is not None
    turn, lock = _locks()
    with turn.open("w") as waiting, lock.open("w") as running:
        # Whoever waits holds the turn, so that the other cannot go on for ever before it.
        fcntl.flock(waiting, fcntl.LOCK_EX)
        fcntl.flock(running, fcntl.LOCK_EX if timed else fcntl.LOCK_SH)
        fcntl.flock(waiting, fcntl.LOCK_UN)
        return (yield)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> None:
    """Let ``caplog`` hear all that a test logs.

    Pytest adds its handler to loggers that do not propagate, NeMo's among them, and NeMo's
    ``transcribe()`` sets the level of all handlers that it finds there.
    """
    plugin = item.config.pluginmanager.get_plugin("logging-plugin")
    plugin.caplog_handler.setLevel(0)


def pytest_sessionfinish() -> None:
    for path in _locks():
        path.unlink(missing_ok=True)


@dataclass(frozen=True)
class Clip:
    """A recording and what is said in it."""

    path: Path
    text: str
    seconds: float


@pytest.fixture(scope="session")
def clips() -> list[Clip]:
    """The ten clips of recorded speech."""
    manifest = json.loads((HERE / "audio" / "manifest.json").read_text())
    return [Clip(HERE / "audio" / c["file"], c["text"], c["seconds"]) for c in manifest]


@pytest.fixture(scope="session")
def run() -> Iterator[Run[Any]]:
    """Run a coroutine on the session's event loop, which never stands still.

    Handles hear of changed replicas only while their loop runs.
    """
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    yield lambda coroutine: asyncio.run_coroutine_threadsafe(coroutine, loop).result()
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def scripted_application(name: str, deployments: list[dict[str, Any]], **options: Any) -> Any:
    """An application of scripted engines; ``options`` are theirs."""
    recognizer = {"engine": "scripted_engines:ScriptedRecognizer", "options": options}
    synthesizer = {"engine": "scripted_engines:ScriptedSynthesizer", "options": options}
    return {
        "name": name,
        "route_prefix": None,
        "import_path": "deployments.app:build_app",
        "args": {"asr": {"live": recognizer, "file": recognizer}, "tts": synthesizer},
        "deployments": deployments,
    }


SCRIPTED = scripted_application(
    "scripted",
    [
        {
            "name": "TTS",
            "user_config": {
                "lead_s": 5,
                "stall_timeout_s": 5,
                "text_timeout_s": 0.5,
                "max_waiting": 0,
            },
        },
        {"name": "ASR", "user_config": {"idle_timeout_s": 2, "max_waiting": 0}},
    ],
)


def pair(**options: Any) -> Any:
    """An application whose replicas come and go, with slots for many; ``options`` are Serve's."""
    options["user_config"] = {"max_waiting": 2, "max_wait_s": 1.0, "log_words": True}
    return scripted_application(
        "pair", [{"name": "TTS", **options}, {"name": "ASR", **options}], slots=32
    )


def document_with(**options: Any) -> dict[str, Any]:
    """The Serve configuration of the daemon for tests; ``options`` are for ``pair``."""
    document: dict[str, Any] = yaml.safe_load(find_config("embedded").read_text())
    document["applications"] += [SCRIPTED, pair(**options)]
    return document


@pytest.fixture(scope="session")
def daemon() -> Iterator[Settings]:
    """A daemon with the embedded engines, and applications with scripted ones.

    ``scripted`` has one replica each and few slots, ``pair`` two and many.
    """
    document = document_with(num_replicas=2)
    # Replicas import the scripted engines by this path.
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([SUPPORT, *([before] if before else [])])
    try:
        with private_daemon(document) as settings:
            # Now, so that a test may import Ray before the first one that connects.
            adopt_environment(running_daemon(settings).environment)
            yield settings
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


@pytest.fixture(scope="session")
def client(daemon: Settings, run: Run[Any]) -> Iterator[Any]:
    """A client of the embedded engines."""
    from runtime.client import SpeechClient

    connected = run(SpeechClient.connect(settings=daemon))
    yield connected
    run(connected.aclose())


@pytest.fixture(scope="session")
def scripted(client: Any, daemon: Settings, run: Run[Any]) -> Iterator[Any]:
    """A client of the scripted engines, in the same process and cluster."""
    yield from _client_of("scripted", daemon, run)


@pytest.fixture(scope="session")
def pair_client(client: Any, daemon: Settings, run: Run[Any]) -> Iterator[Any]:
    """A client of application ``pair``."""
    yield from _client_of("pair", daemon, run)


@pytest.fixture(scope="session")
def scale(pair_client: Any) -> Callable[..., None]:
    """Give application ``pair`` other options of Serve's, as `serve deploy` would."""
    from ray.serve.context import _get_global_client
    from ray.serve.schema import ServeDeploySchema

    def deploy(*, wait: bool = False, **options: Any) -> None:
        schema = ServeDeploySchema.model_validate(document_with(**options))
        _get_global_client().deploy_apps(schema, _blocking=wait)

    return deploy


@pytest.fixture(scope="session")
def openjtalk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dictionary of ten words, with which this process and its children read Japanese."""
    from tiny_openjtalk import build_openjtalk, use_openjtalk

    folder = build_openjtalk(tmp_path_factory.mktemp("openjtalk"))
    use_openjtalk(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_codec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A nano codec of a few channels. NeMo is imported by whoever asks for it: 10 to 30 s."""
    from tiny_magpie import build_codec

    return build_codec(tmp_path_factory.mktemp("codec") / "codec.nemo")


@pytest.fixture(scope="session")
def tiny_magpie(
    tiny_codec: Path, openjtalk: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    """Tiny Magpie checkpoints by the arguments of ``build_magpie``, each built once."""
    from tiny_magpie import build_magpie

    built: dict[str, Path] = {}

    def build(**arguments: Any) -> Path:
        key = repr(sorted(arguments.items()))
        if key not in built:
            path = tmp_path_factory.mktemp("magpie") / "magpie.nemo"
            built[key] = build_magpie(path, tiny_codec, **arguments)
        return built[key]

    return build


@pytest.fixture(scope="session")
def magpie_engine(
    tiny_magpie: Callable[..., Path], tiny_codec: Path
) -> Iterator[Callable[..., Any]]:
    """Loaded reference engines of Magpie by stacking and options, each made once."""
    import torch
    from magpie_speaking import BUILT

    from runtime.engines.magpie.reference import MagpieReference

    made: dict[Any, MagpieReference] = {}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # tiny tensors gain nothing from a second one, and wait for it

    def engine(stacking: int = 2, **options: Any) -> MagpieReference:
        key = (stacking, *sorted(options.items()))
        if key not in made:
            defaults = {
                "weights": str(tiny_magpie(stacking=stacking, **BUILT)),
                "codec": str(tiny_codec),
                "device": "cpu",
                "normalizer": "off",
            }
            made[key] = MagpieReference(**{**defaults, **options})
            asyncio.run(made[key].load())
        return made[key]

    yield engine
    for magpie in made.values():
        asyncio.run(magpie.close())
    torch.set_num_threads(threads)


def _client_of(application: str, daemon: Settings, run: Run[Any]) -> Iterator[Any]:
    from runtime.client import SpeechClient

    connected = run(SpeechClient.connect(settings=daemon, application=application))
    yield connected
    run(connected.aclose())


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings with a state folder in which no daemon has been."""
    (tmp_path / "state").mkdir()
    return Settings(state_dir=tmp_path / "state")


@pytest.fixture
def own() -> Iterator[Settings]:
    """Settings for a daemon of the test's own; its folders are short, as Ray wants them."""
    with tempfile.TemporaryDirectory(prefix="st-") as folder:
        yield Settings(state_dir=Path(folder) / "s", temp_dir=Path(folder) / "r")


@pytest.fixture
def record(settings: Settings) -> DaemonRecord:
    """The record that this process would leave as a daemon."""
    make_token(settings)
    return DaemonRecord(
        pid=os.getpid(),
        address="127.0.0.1:6379",
        ready_s=1.5,
        started_at=1_700_000_000.25,
        config="embedded",
        python=python_version(),
        ray=ray_version(),
        environment=own_cluster_environment(settings),
        log="/tmp/speech/logs",
        protocol=PROTOCOL_VERSION,
    )


@dataclass(frozen=True)
class Result:
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def shell() -> dict[str, str]:
    """The environment of a fresh shell: without what connecting has set in this process."""
    return {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}


@pytest.fixture
def speech(tmp_path: Path, shell: dict[str, str]) -> Callable[..., Result]:
    """Run ``speech`` in an empty folder, as a user would; by default there is no daemon."""

    def call(*arguments: str | Path, settings: Settings | None = None, **options: Any) -> Result:
        where = place(settings or Settings(state_dir=tmp_path / "state"))
        environment = shell | where | {"COLUMNS": "200"}
        done = subprocess.run(
            [str(Path(sys.executable).parent / "speech"), *map(str, arguments)],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=environment | options.pop("env", {}),
            timeout=240,
            **options,
        )
        return Result(done.returncode, done.stdout, done.stderr)

    return call


@pytest.fixture(scope="session")
def tiny_parakeet(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Tiny Parakeet checkpoints by the arguments of ``tiny_parakeet.build_*``, each built once."""
    from tiny_parakeet import build_offline, build_streaming

    built: dict[str, Path] = {}

    def build(*, streaming: bool, **arguments: Any) -> Path:
        key = repr((streaming, sorted(arguments.items())))
        if key not in built:
            path = tmp_path_factory.mktemp("parakeet") / "parakeet.nemo"
            built[key] = (build_streaming if streaming else build_offline)(path, **arguments)
        return built[key]

    return build
