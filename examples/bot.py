"""A voice agent in one file: speech-runtime's ears and mouth, an LLM, and a page to talk to it.

    make bot                        # or, beside a daemon that runs: python examples/bot.py
    BOT_LLM_BASE_URL=http://127.0.0.1:8000/v1 BOT_LLM_MODEL=my-model make bot

Without an LLM a parrot repeats what it hears, so that the whole loop can be tried on a laptop.
Everything is served from this machine: the page in examples/page, and WebRTC that asks no
other server unless BOT_ICE_SERVERS names one.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import uvicorn
from aiortc import RTCIceServer
from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.staticfiles import StaticFiles
from loguru import logger
from pipecat.audio.turn.smart_turn.local_smart_turn_v3 import LocalSmartTurnAnalyzerV3
from pipecat.audio.vad.silero import SileroVADAnalyzer
from pipecat.audio.vad.vad_analyzer import VADParams
from pipecat.frames.frames import (
    ErrorFrame,
    Frame,
    FunctionCallsStartedFrame,
    InterruptionFrame,
    LLMContextFrame,
    LLMFullResponseEndFrame,
    LLMFullResponseStartFrame,
    LLMTextFrame,
    TTSSpeakFrame,
)
from pipecat.observers.user_bot_latency_observer import LatencyBreakdown, UserBotLatencyObserver
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import (
    LLMContextAggregatorPair,
    LLMUserAggregatorParams,
)
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.processors.frameworks.rtvi import RTVIObserverParams
from pipecat.services.openai.llm import OpenAILLMService
from pipecat.transports.base_transport import TransportParams
from pipecat.transports.smallwebrtc.connection import SmallWebRTCConnection
from pipecat.transports.smallwebrtc.request_handler import (
    SmallWebRTCPatchRequest,
    SmallWebRTCRequest,
    SmallWebRTCRequestHandler,
)
from pipecat.transports.smallwebrtc.transport import SmallWebRTCTransport
from pipecat.turns.user_stop import TurnAnalyzerUserTurnStopStrategy
from pipecat.turns.user_turn_strategies import UserTurnStrategies
from pipecat.workers.runner import WorkerRunner
from pydantic import Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, CliApp, SettingsConfigDict
from starlette.middleware.trustedhost import TrustedHostMiddleware

from runtime.bots import ServeSTTService, ServeTTSService, connect, disconnect
from runtime.errors import SpeechError
from runtime.speakable import has_speech

PAGE = Path(__file__).parent / "page"
START_SECS = 0.1  # of speech until Silero believes it: how soon an interruption silences the bot
STOP_SECS = 0.2  # of silence until it says that the user paused; smart turn then decides
HANG_UP_S = 10.0  # for a call to end by itself once its connection is closed
PROMPT = (
    "You are a voice assistant and everything you write is spoken aloud. Answer in one to three "
    "short sentences of plain words: no lists, no markup, no emoji."
)


class BotSettings(BaseSettings):
    """From BOT_* environment variables, or options of the same names (--port 7861)."""

    model_config = SettingsConfigDict(
        env_prefix="BOT_", env_ignore_empty=True, cli_kebab_case=True, cli_prog_name="bot.py"
    )

    host: str = Field("127.0.0.1", description="Where the page is served.")
    port: int = Field(7860, ge=0, le=65_535, description="Its port; 0 takes a free one.")
    max_calls: int = Field(2, ge=1, description="Calls at once; more are refused.")
    voice: str | None = Field(None, description="By default the daemon's first.")
    ice_servers: list[RTCIceServer] = Field(
        [], description="STUN and TURN servers as JSON, for bot and page; none on one network."
    )
    llm_base_url: str = Field("", description="An OpenAI-compatible API, such as vLLM's.")
    llm_model: str = Field("", description="The model's name there.")
    llm_api_key: str = Field("none", description="vLLM needs none.")
    llm_slow_s: float = Field(3.0, gt=0, description="Until the bot says that it is thinking.")
    llm_give_up_s: float = Field(20.0, gt=0, description="Until it says that no answer comes.")

    @model_validator(mode="after")
    def _names_the_model(self) -> BotSettings:
        if self.llm_base_url and not self.llm_model:
            raise ValueError(
                "BOT_LLM_BASE_URL is set but BOT_LLM_MODEL is not; "
                f"`curl {self.llm_base_url.rstrip('/')}/models` lists what is served there"
            )
        return self


class LanguageModel(OpenAILLMService):
    """Any OpenAI-compatible API; its connections end with the call."""

    GREETING = "Hello! What can I do for you?"

    async def cleanup(self) -> None:
        """Pipecat leaves the client open."""
        await super().cleanup()
        await self._client.close()


class Parrot(FrameProcessor):
    """Stands where an LLM would: repeats what was said and remarks on it, in turn."""

    GREETING = "Hello! Say something, and I will say it back to you."
    REMARKS = (
        "That was {count}.",
        "I could not have put it better. You may interrupt me at any time.",
        "With a language model behind me I would have an opinion on that.",
    )

    def __init__(self) -> None:
        super().__init__()
        self._turns = 0

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        """Answer a context as an LLM does: start, text in small pieces, end."""
        await super().process_frame(frame, direction)
        if not isinstance(frame, LLMContextFrame):
            await self.push_frame(frame, direction)
            return
        await self.push_frame(LLMFullResponseStartFrame())
        for word in self._reply(frame.context).split():
            await self.push_frame(LLMTextFrame(f"{word} "))
        await self.push_frame(LLMFullResponseEndFrame())

    def _reply(self, context: LLMContext) -> str:
        latest = context.get_messages()[-1]
        said = latest.get("content") if latest.get("role") == "user" else ""
        if not isinstance(said, str) or not has_speech(said):
            return "I did not catch that."
        words = len(said.split())
        if said.rstrip()[-1] not in ".!?":
            said = f"{said.rstrip()}."
        remark = self.REMARKS[self._turns % len(self.REMARKS)]
        self._turns += 1
        count = "one word" if words == 1 else f"{words} words"
        return f"You said: {said} {remark.format(count=count)}"


class SpokenFailures(FrameProcessor):
    """After the LLM: where no answer comes, says so aloud, and the call goes on.

    Covers an LLM that is down or refuses (its response ends without text), one whose text
    holds nothing to speak, and one that is slow: first a word of patience, then giving up.
    """

    THINKING = "One moment, I am thinking."
    NOTHING = "My language model gave me no answer. Please ask me again."
    TOO_SLOW = "My language model takes too long. Please ask me again."

    def __init__(self, slow_s: float, give_up_s: float) -> None:
        super().__init__()
        self._slow_s, self._give_up_s = slow_s, give_up_s
        self._waiting: asyncio.Task[None] | None = None
        self._answered = True

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        """Watch a response from its start to its end."""
        await super().process_frame(frame, direction)
        silent = False
        if isinstance(frame, InterruptionFrame):
            await self._stop_waiting()
            self._answered = True
        elif isinstance(frame, LLMFullResponseStartFrame):
            await self._stop_waiting()
            self._answered = False
            self._waiting = self.create_task(self._wait())
        elif isinstance(frame, FunctionCallsStartedFrame) or (
            isinstance(frame, LLMTextFrame) and not self._answered and has_speech(frame.text)
        ):
            await self._stop_waiting()
            self._answered = True
        elif isinstance(frame, LLMFullResponseEndFrame):
            await self._stop_waiting()
            silent, self._answered = not self._answered, True
        await self.push_frame(frame, direction)
        if silent:
            await self._say(self.NOTHING)

    async def _wait(self) -> None:
        await asyncio.sleep(self._slow_s)
        await self._say(self.THINKING)
        await asyncio.sleep(max(self._give_up_s - self._slow_s, 0))
        self._waiting, self._answered = None, True  # by what follows
        await self.broadcast_interruption()  # the LLM gives up, too
        await self._say(self.TOO_SLOW)

    async def _say(self, text: str) -> None:
        await self.push_frame(TTSSpeakFrame(text, append_to_context=False))

    async def _stop_waiting(self) -> None:
        if self._waiting is not None:
            waiting, self._waiting = self._waiting, None
            await self.cancel_task(waiting)

    async def cleanup(self) -> None:
        """Stop waiting when the call ends."""
        await super().cleanup()
        await self._stop_waiting()


def language_model(settings: BotSettings) -> LanguageModel | Parrot:
    """What answers: the LLM of the settings, or the parrot."""
    if not settings.llm_base_url:
        return Parrot()
    return LanguageModel(
        base_url=settings.llm_base_url,
        api_key=settings.llm_api_key,
        settings=LanguageModel.Settings(
            model=settings.llm_model, system_instruction=PROMPT, max_tokens=400
        ),
    )


async def talk(connection: SmallWebRTCConnection, settings: BotSettings) -> None:
    """One call, from the first packet until someone hangs up."""
    transport = SmallWebRTCTransport(
        connection, TransportParams(audio_in_enabled=True, audio_out_enabled=True)
    )
    stt = ServeSTTService()
    tts = ServeTTSService(settings=ServeTTSService.Settings(voice=settings.voice))
    llm = language_model(settings)
    timing = VADParams(start_secs=START_SECS, stop_secs=STOP_SECS)
    vad, smart_turn = await asyncio.gather(  # in threads: other calls must not hear it
        asyncio.to_thread(SileroVADAnalyzer, params=timing),
        asyncio.to_thread(LocalSmartTurnAnalyzerV3),
    )
    context = LLMContextAggregatorPair(
        LLMContext(),
        user_params=LLMUserAggregatorParams(
            vad_analyzer=vad,
            user_turn_strategies=UserTurnStrategies(
                stop=[TurnAnalyzerUserTurnStopStrategy(turn_analyzer=smart_turn)]
            ),
        ),
    )
    latency = UserBotLatencyObserver()
    worker = PipelineWorker(
        Pipeline(
            [
                transport.input(),
                stt,
                context.user(),
                llm,
                SpokenFailures(settings.llm_slow_s, settings.llm_give_up_s),
                tts,
                transport.output(),
                context.assistant(),
            ]
        ),
        params=PipelineParams(
            audio_in_sample_rate=16_000,
            audio_out_sample_rate=24_000,
            enable_metrics=True,
            enable_usage_metrics=True,
        ),
        observers=[latency],
        rtvi_observer_params=RTVIObserverParams(vad_user_speaking_enabled=True),
    )
    runner = WorkerRunner(handle_sigint=False)

    @worker.rtvi.event_handler("on_client_ready")
    async def greet(_rtvi: Any) -> None:
        await worker.queue_frame(TTSSpeakFrame(llm.GREETING))

    @latency.event_handler("on_latency_breakdown")
    async def report(_observer: Any, breakdown: LatencyBreakdown) -> None:
        parts = [
            {"key": part.key, "seconds": part.duration_secs} for part in breakdown.contributions
        ]
        await worker.rtvi.send_server_message({"kind": "latency", "parts": parts})

    @stt.event_handler("on_error")
    async def apologise(_stt: Any, _error: ErrorFrame) -> None:
        sorry = "I cannot hear you right now. Please hold on."
        await worker.queue_frame(TTSSpeakFrame(sorry, append_to_context=False))

    @transport.event_handler("on_client_disconnected")
    async def hang_up(_transport: Any, _connection: Any) -> None:
        await worker.cancel()

    await runner.add_workers(worker)
    await runner.run()


async def hang_up_if_gone(connection: SmallWebRTCConnection, period_s: float = 1.0) -> None:
    """Free the line of a page that vanished, or never came further than its offer.

    Pages ping once a second. WebRTC by itself notices after half a minute, or a whole one.
    """
    missed = 0
    while missed < 20:
        await asyncio.sleep(period_s)
        missed = 0 if connection.is_connected() else missed + 1
    await connection.disconnect()


def build_app(settings: BotSettings) -> FastAPI:
    """The page, and the endpoint that it calls."""
    lines = asyncio.Semaphore(settings.max_calls)
    calls: set[asyncio.Task[None]] = set()
    webrtc = SmallWebRTCRequestHandler(ice_servers=settings.ice_servers)

    async def converse(connection: SmallWebRTCConnection) -> None:
        talking = asyncio.create_task(talk(connection, settings))
        watching = asyncio.create_task(hang_up_if_gone(connection))
        # A page may be gone before there is anything that would hear of it.
        later = asyncio.get_running_loop().call_later
        watching.add_done_callback(lambda _: later(HANG_UP_S, talking.cancel))
        try:
            await talking
        except Exception:
            logger.exception("A call broke off")
        finally:
            watching.cancel()
            lines.release()
            await connection.disconnect()  # the page hears of it, however the call ended

    async def answer(connection: SmallWebRTCConnection) -> None:
        call = asyncio.create_task(converse(connection))
        calls.add(call)
        call.add_done_callback(calls.discard)

    @contextlib.asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        yield
        await webrtc.close()
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        await disconnect()

    app = FastAPI(lifespan=lifespan, openapi_url=None)
    # A page elsewhere must not reach the microphone through a name that resolves to this host.
    local = ["127.0.0.1", "localhost", settings.host]
    app.add_middleware(
        TrustedHostMiddleware, allowed_hosts=["*"] if settings.host == "0.0.0.0" else local
    )

    @app.middleware("http")
    async def keep_to_this_host(request: Request, proceed: Any) -> Response:
        response: Response = await proceed(request)
        response.headers["Content-Security-Policy"] = "default-src 'self'"
        response.headers["Cache-Control"] = "no-cache"
        return response

    @app.get("/api/config")
    async def config() -> dict[str, Any]:
        return {
            "iceServers": [
                {key: value for key, value in vars(server).items() if value}
                for server in settings.ice_servers
            ],
            "model": settings.llm_model or None,
            "stopSecs": STOP_SECS,
        }

    @app.post("/api/offer")
    async def offer(request: SmallWebRTCRequest) -> dict[str, str] | None:
        if lines.locked():
            raise HTTPException(
                503,
                f"The bot is in {settings.max_calls} calls, as many as it takes at once. "
                "Please call again in a moment.",
                headers={"Retry-After": "10"},
            )
        await lines.acquire()
        request.pc_id = None  # the page does not renegotiate: each offer is a call of its own
        try:
            return await webrtc.handle_web_request(request, answer)
        except Exception as error:
            lines.release()
            raise HTTPException(400, f"That is no WebRTC offer: {error}") from error

    @app.patch("/api/offer")
    async def candidates(request: SmallWebRTCPatchRequest) -> None:
        await webrtc.handle_patch_request(request)

    app.mount("/", StaticFiles(directory=PAGE, html=True))
    return app


async def serve(settings: BotSettings) -> None:
    """Serve the page until Ctrl-C."""
    await connect()  # now, as joining the daemon takes a second or two
    # A full collection looks at all that is imported here, and holds the loop for 0.2 s.
    gc.collect()
    gc.freeze()
    try:
        listening = socket.create_server((settings.host, settings.port))
    except OSError as error:
        await disconnect()
        raise SpeechError(
            f"Port {settings.port} of {settings.host} cannot be had ({error.strerror}); "
            "set BOT_PORT to another."
        ) from error
    host, port = listening.getsockname()[:2]
    who = settings.llm_model or "a parrot; set BOT_LLM_BASE_URL and BOT_LLM_MODEL for an LLM"
    print(f"Talk to {who}\n\n    http://{host}:{port}\n\nCtrl-C stops the bot.", flush=True)
    config = uvicorn.Config(build_app(settings), log_level="warning")
    await uvicorn.Server(config).serve(sockets=[listening])


def main() -> None:
    """Run the bot; errors become one line and an exit code."""
    try:
        settings = CliApp.run(BotSettings)
        asyncio.run(serve(settings))
    except ValidationError as error:
        for problem in error.errors():
            name = "_".join(map(str, problem["loc"])).upper()
            print(f"error: {'BOT_' + name + ': ' if name else ''}{problem['msg']}", file=sys.stderr)
        sys.exit(2)
    except SpeechError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()
