"""What a hub refuses, in words that say what to do; and who is shown the token."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_hub import FakeHub
from huggingface_hub import constants
from pulling import CONTENT, FILE, NAME, REPO, catalogued, isolate, parakeets_hub, run
from tiny_models import COMMIT, OTHER, pinned

from runtime.errors import HubError, InvalidRequest
from runtime.models.catalogue import Model
from runtime.models.hub import TOKENS, Hub, Token
from runtime.settings import Settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(models_dir=tmp_path / "models")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return isolate(monkeypatch, tmp_path)


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with parakeets_hub() as running:
        yield running


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Model:
    """Parakeet in the catalogue, a little smaller."""
    return catalogued(monkeypatch, pinned(NAME, CONTENT))


# --- hubs that refuse --------------------------------------------------------


def test_a_gated_model_names_its_page_and_the_token(hub, model, settings) -> None:
    hub.repositories[REPO].gated = True
    with pytest.raises(HubError) as refused:
        run(model, settings, hub)
    assert f"accept its licence on https://huggingface.co/{REPO}" in str(refused.value)
    assert f"No token was used: none of {', '.join(TOKENS)} is set." in str(refused.value)
    with pytest.raises(HubError) as refused:
        run(model, settings, hub, token="stranger-token")
    assert "The token in HF_TOKEN was used." in str(refused.value)
    assert "stranger-token" not in str(refused.value)
    assert run(model, settings, hub, token="good-token").source == "hub"


def test_a_bad_token_is_said_to_be_one_and_is_not_shown(hub, model, settings) -> None:
    with pytest.raises(HubError, match=r"refuses the token \(401\).*HF_TOKEN") as refused:
        run(model, settings, hub, token="expired-token")
    assert "expired-token" not in f"{refused.value} {refused.value.__cause__}"


def test_a_missing_repository_says_that_it_may_be_hidden(hub, model, settings) -> None:
    hub.repositories.clear()
    for token in ("", "good-token"):
        with pytest.raises(HubError, match=rf"has no {REPO}, or does not show it.*{REPO}"):
            run(model, settings, hub, token=token)


def test_an_unknown_revision_is_bad_input(hub, model, settings) -> None:
    with pytest.raises(InvalidRequest, match=r"no revision 'v99'") as refused:
        run(model, settings, hub, revision="v99")
    assert refused.value.exit_code == 2


def test_a_revision_without_the_file_says_so(hub, model, settings) -> None:
    hub.publish(REPO, OTHER, {"README.md": b"a card"}, "empty")
    with pytest.raises(HubError, match=f"at {OTHER} has no {FILE}"):
        run(model, settings, hub, revision="empty")


@pytest.mark.parametrize(
    ("state", "says"),
    [
        ({"broken": 503}, r"overloaded or failing \(503\)"),
        ({"broken": 403}, r"forbids .*\(403\)"),
        ({"broken": 418}, r"refuses .* \(418\)"),
        ({"portal": True}, r"does not answer as a hub does.*HF_ENDPOINT"),
    ],
)
def test_a_hub_that_answers_something_else_is_described(hub, model, settings, state, says) -> None:
    vars(hub).update(state)
    with pytest.raises(HubError, match=says):
        run(model, settings, hub)
    with pytest.raises(HubError, match=says):
        Hub(Token(), endpoint=hub.url).check(model, None)


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "nonsense", "http://[1"])
def test_a_hub_that_is_not_there_says_what_else_can_be_done(model, url) -> None:
    with pytest.raises(HubError, match=r"HF_ENDPOINT"):
        Hub(Token(), endpoint=url).describe(model, None)


def test_offline_means_offline(hub, model, settings, monkeypatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match=r"HF_HUB_OFFLINE is set.*--from"):
        run(model, settings, hub)
    assert hub.requests == []


def test_without_the_hubs_package_the_extra_is_named(model, settings, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(HubError, match=r"pip install 'speech-runtime\[nemo\]'"):
        run(model, settings, None)


def test_access_is_checked_without_a_download(hub, model) -> None:
    hub.repositories[REPO].gated = True
    with pytest.raises(HubError, match="is gated"):
        Hub(Token(), endpoint=hub.url).check(model, COMMIT)
    Hub(Token("HF_TOKEN", "good-token"), endpoint=hub.url).check(model, COMMIT)
    assert hub.downloads == []


# --- tokens ------------------------------------------------------------------


def test_the_first_token_that_is_set_is_used(monkeypatch) -> None:
    assert Token.from_environment() == Token()
    for variable in reversed(TOKENS):
        monkeypatch.setenv(variable, f" {variable}-secret\n")
        token = Token.from_environment()
        assert (token.variable, token.value) == (variable, f"{variable}-secret")
        assert "secret" not in f"{token} {token!r}"
    monkeypatch.setenv(TOKENS[0], "")
    assert Token.from_environment().variable == TOKENS[1]


def test_the_token_goes_to_the_hub_and_not_where_it_redirects_to(hub, model, settings) -> None:
    hub.cdn = hub.url.replace("127.0.0.1", "localhost")
    run(model, settings, hub, token="good-token")
    asked, redirected = hub.downloads
    assert (asked.token, redirected.token) == ("good-token", "")


def test_a_stored_log_in_is_not_used_unasked(hub, model, settings, monkeypatch, tmp_path) -> None:
    (tmp_path / "token").write_text("good-token")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    run(model, settings, hub)
    assert {request.token for request in hub.requests} == {""}
