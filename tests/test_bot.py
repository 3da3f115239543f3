"""The example bot's own parts: its parrot, and what it says where its LLM does not answer."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pipecat", reason="needs the extra bots")

from aiohttp import web
from fastapi.testclient import TestClient
from pipecat.frames.frames import (
    FunctionCallsStartedFrame,
    LLMContextFrame,
    LLMFullResponseEndFrame,
    LLMFullResponseStartFrame,
    LLMTextFrame,
    TTSSpeakFrame,
)
from pipecat.pipeline.pipeline import Pipeline
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.tests.utils import SleepFrame, run_test

from runtime.speakable import has_speech

PATH = Path(__file__).parents[1] / "examples" / "bot.py"


@pytest.fixture(scope="module")
def bot() -> Any:
    """The example, imported as a module."""
    spec = importlib.util.spec_from_file_location("example_bot", PATH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where pydantic looks for the types that it names
    spec.loader.exec_module(module)
    return module


def asked(text: str) -> LLMContextFrame:
    return LLMContextFrame(LLMContext([{"role": "user", "content": text}]))


async def spoken(processor: Any, *frames: Any) -> list[str]:
    """What reaches the mouth: whole answers, and sentences that stand alone."""
    down, _ = await run_test(processor, frames_to_send=frames, start_timeout=10)
    said: list[str] = []
    answer = ""
    for frame in down:
        if isinstance(frame, LLMTextFrame):
            answer += frame.text
        elif isinstance(frame, LLMFullResponseEndFrame) and has_speech(answer):
            said.append(answer.strip())
        elif isinstance(frame, TTSSpeakFrame):
            said.append(frame.text)
        if isinstance(frame, LLMFullResponseEndFrame):
            answer = ""
    return said


async def _answer(request: web.Request) -> web.StreamResponse:
    """As the last message asks for."""
    wanted = (await request.json())["messages"][-1]["content"]
    if wanted == "refuse":
        return web.json_response({"error": {"message": "no such model"}}, status=404)
    if wanted == "page":
        return web.Response(text="<html>Welcome to nginx!</html>", content_type="text/html")
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    if wanted == "break":
        await response.write(b"data: {]\n\n")
        return response
    if wanted == "hang":
        await asyncio.sleep(60)
    if wanted == "late":
        await asyncio.sleep(0.5)
    for text in ["\U0001f916\u2728 ", "*** "] if wanted == "emoji" else ["Here ", "I am."]:
        chunk = {
            "id": "1",
            "object": "chat.completion.chunk",
            "created": 0,
            "model": "m",
            "choices": [{"index": 0, "delta": {"content": text}}],
        }
        await response.write(f"data: {json.dumps(chunk)}\n\n".encode())
    await response.write(b"data: [DONE]\n\n")
    return response


@asynccontextmanager
async def llm_server() -> AsyncIterator[str]:
    """The address of an OpenAI-compatible API that misbehaves on request."""
    app = web.Application()
    app.router.add_post("/v1/chat/completions", _answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    finally:
        await runner.cleanup()


def brain(bot: Any, address: str, *, slow_s: float = 5.0, give_up_s: float = 30.0) -> Pipeline:
    settings = bot.BotSettings(llm_base_url=address, llm_model="m")
    return Pipeline([bot.language_model(settings), bot.SpokenFailures(slow_s, give_up_s)])


@pytest.mark.parametrize("trouble", ["refuse", "page", "break", "emoji"])
def test_an_llm_that_answers_nonsense_is_spoken_of_and_the_next_answer_is_heard(
    bot, trouble
) -> None:
    async def talk() -> list[str]:
        async with llm_server() as address:
            return await spoken(brain(bot, address), asked(trouble), asked("well"))

    said = asyncio.run(talk())
    assert said == [bot.SpokenFailures.NOTHING, "Here I am."]


def test_an_llm_that_is_down_is_spoken_of_at_every_turn(bot) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and nobody listens
        address = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        said = asyncio.run(spoken(brain(bot, address), asked("one"), asked("two")))
    assert said == [bot.SpokenFailures.NOTHING] * 2


def test_a_slow_llm_is_excused_and_one_that_hangs_is_given_up(bot) -> None:
    async def talk() -> list[str]:
        async with llm_server() as address:
            slow = brain(bot, address, slow_s=0.1, give_up_s=10.0)
            hanging = brain(bot, address, slow_s=0.1, give_up_s=0.3)
            answers = await spoken(slow, asked("late"))
            return answers + await spoken(hanging, asked("hang"), SleepFrame(1.0), asked("well"))

    said = asyncio.run(talk())
    patience = bot.SpokenFailures.THINKING
    assert said == [patience, "Here I am.", patience, bot.SpokenFailures.TOO_SLOW, "Here I am."]


def test_an_answer_that_only_calls_a_function_is_an_answer(bot) -> None:
    frames = [
        LLMFullResponseStartFrame(),
        SleepFrame(0.1),  # as long as any LLM thinks; what follows is a system frame
        FunctionCallsStartedFrame(function_calls=[]),
        LLMFullResponseEndFrame(),
    ]
    assert asyncio.run(spoken(Pipeline([bot.SpokenFailures(5.0, 30.0)]), *frames)) == []


def test_the_parrot_repeats_and_remarks(bot) -> None:
    frames = [asked("Go forward ten meters"), asked("Stop!"), asked("\U0001f99c")]
    assert asyncio.run(spoken(bot.Parrot(), *frames)) == [
        "You said: Go forward ten meters. That was 4 words.",
        "You said: Stop! I could not have put it better. You may interrupt me at any time.",
        "I did not catch that.",
    ]


def test_a_page_that_vanished_is_hung_up_on_and_one_that_stumbled_is_not(bot) -> None:
    class Connection:
        pings = iter([*[False] * 19, True, *[False] * 19, True, *[False] * 20])
        hung_up = False

        def is_connected(self) -> bool:
            return next(self.pings)

        async def disconnect(self) -> None:
            self.hung_up = True

    connection = Connection()
    asyncio.run(bot.hang_up_if_gone(connection, period_s=0))
    assert connection.hung_up
    assert not list(connection.pings)


def test_no_other_server_is_asked_unless_the_settings_name_it(bot, monkeypatch) -> None:
    def configuration() -> Any:
        with TestClient(bot.build_app(bot.BotSettings()), base_url="http://127.0.0.1") as client:
            return client.get("/api/config").json()

    assert configuration()["iceServers"] == []
    server = {"urls": "turn:turn.example.org", "username": "u", "credential": "c"}
    monkeypatch.setenv("BOT_ICE_SERVERS", json.dumps([server]))
    (configured,) = configuration()["iceServers"]
    assert configured.items() >= server.items()


def test_the_page_may_reach_its_own_server_alone_and_no_other_name_reaches_it(bot) -> None:
    with TestClient(bot.build_app(bot.BotSettings()), base_url="http://127.0.0.1") as client:
        page = client.get("/")
        assert "Talk to the bot" in page.text
        assert page.headers["content-security-policy"] == "default-src 'self'"
        assert client.get("/", headers={"host": "rebound.example.org"}).status_code == 400
        offer = client.post("/api/offer", json={"sdp": "v=0 nonsense", "type": "offer"})
        assert offer.status_code == 400
        assert "offer" in offer.json()["detail"]


def test_settings_that_lack_the_model_name_it(bot) -> None:
    with pytest.raises(ValueError, match="BOT_LLM_MODEL"):
        bot.BotSettings(llm_base_url="http://127.0.0.1:8000/v1")
