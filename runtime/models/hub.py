"""The hub that models are published on, through ``huggingface_hub``; its errors, as ours.

Imported only where a hub is asked: the package comes with the extra ``nemo``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runtime.errors import HubError, InvalidRequest
from runtime.models.catalogue import HUB, FileHash, Model, Pin

TOKENS = ("HF_TOKEN", "HUGGINGFACE_TOKEN", "HUGGINGFACE_ACCESS_TOKEN")
"""Environment variables that may hold a token; the first that is set is used."""


class Interrupted(HubError):
    """The hub cannot be reached just now, or stopped amid a transfer; it may work again."""


@dataclass(frozen=True, slots=True)
class Token:
    """A token for the hub, and where it is from; its value is never shown.

    Attributes:
        variable: The environment variable it was found in; empty where there is none.
        value: The token.
    """

    variable: str = ""
    value: str = field(default="", repr=False)

    @classmethod
    def from_environment(cls) -> Token:
        """The first of ``TOKENS`` that is set; one stored by a log-in is not looked for."""
        for variable in TOKENS:
            if value := os.environ.get(variable, "").strip():
                return cls(variable, value)
        return cls()

    def __str__(self) -> str:
        if self.variable:
            return f"The token in {self.variable} was used."
        return f"No token was used: none of {', '.join(TOKENS)} is set."


@dataclass(frozen=True, slots=True)
class Description:
    """What the hub says of a revision.

    Attributes:
        pin: Its commit and what its files are.
        licence: As the model card's header has it; empty where it has none.
    """

    pin: Pin
    licence: str


class Hub:
    """Asks the hub; every method raises ``HubError`` with the mend in its message."""

    def __init__(self, token: Token, endpoint: str | None = None) -> None:
        """Nothing is asked yet; the package's telemetry is off unless it was turned on.

        Args:
            token: Sent along.
            endpoint: Another hub's address; by default ``HF_ENDPOINT``'s.

        Raises:
            HubError: huggingface_hub is not installed.
        """
        os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # read when it is imported
        try:
            from huggingface_hub import constants
        except ImportError as error:
            raise HubError(
                "Asking the hub takes huggingface_hub, which is not installed: "
                "pip install 'speech-runtime[nemo]'."
            ) from error
        self.token = token
        self.endpoint: str = (endpoint or constants.ENDPOINT).rstrip("/")
        self.cache = Path(constants.HF_HUB_CACHE)
        # False, not None: a stored log-in must not be used behind what the messages say.
        self._token: str | bool = token.value or False

    def describe(self, model: Model, revision: str | None) -> Description:
        """Resolve a revision into its commit and the sha256 of the model's files.

        Args:
            model: Which.
            revision: A branch, tag or commit; None is the repository's main branch.

        Raises:
            InvalidRequest: The hub has no such revision.
            HubError: It does not answer, refuses, or lacks a file or its hash.
        """
        from huggingface_hub import HfApi, constants

        api = HfApi(endpoint=self.endpoint, token=self._token)
        with self._errors_of(model, revision):
            try:
                info = api.model_info(
                    model.repo,
                    revision=revision,
                    files_metadata=True,
                    timeout=constants.HF_HUB_ETAG_TIMEOUT,
                )
            except (ValueError, KeyError, TypeError) as error:  # no JSON, or not a model's
                raise self._no_hub(error) from error
        there = {file.rfilename: file.lfs for file in info.siblings or ()}
        files = {}
        for name in model.files:
            lfs = there.get(name)
            if lfs is None:
                what = f"no sha256 of {name}" if name in there else f"no {name}"
                raise HubError(
                    f"{model.repo} at {info.sha} has {what}. See {model.page}, and give the "
                    "revision that has it with --revision."
                )
            files[name] = FileHash(lfs.sha256, lfs.size)
        return Description(Pin(str(info.sha), files), _licence(info.card_data))

    def check(self, model: Model, revision: str | None) -> None:
        """Ask whether the model's files may be downloaded, without doing so.

        Raises:
            InvalidRequest: The hub has no such revision.
            HubError: It does not answer, or refuses.
        """
        from huggingface_hub import get_hf_file_metadata

        for name in model.files:
            with self._errors_of(model, revision):
                metadata = get_hf_file_metadata(
                    self._url(model, revision, name), token=self._token, endpoint=self.endpoint
                )
            if metadata.commit_hash is None:
                raise self._no_hub("it names no commit")

    @contextmanager
    def stream(
        self, model: Model, commit: str, name: str, start: int
    ) -> Iterator[tuple[int, Iterator[bytes]]]:
        """Open a file for download.

        Args:
            model: Which.
            commit: Its revision.
            name: Of the file.
            start: Bytes that are here already.

        Yields:
            The byte that the content begins with (``start``, or 0 where the hub does not
            resume), and the content in pieces.

        Raises:
            Interrupted: It broke off; another try may resume it.
            HubError: The hub refuses.
        """
        from huggingface_hub import constants, get_session
        from huggingface_hub.utils import build_hf_headers, hf_raise_for_status

        headers = build_hf_headers(token=self._token)
        headers["Accept-Encoding"] = "identity"
        if start:
            headers["Range"] = f"bytes={start}-"
        # The client leaves the token out where the hub redirects to another host.
        with (
            self._errors_of(model, commit),
            get_session().stream(
                "GET",
                self._url(model, commit, name),
                headers=headers,
                timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT,
            ) as response,
        ):
            hf_raise_for_status(response)
            yield (start if response.status_code == 206 else 0), response.iter_bytes()

    def _url(self, model: Model, revision: str | None, name: str) -> str:
        from huggingface_hub import hf_hub_url

        url: str = hf_hub_url(model.repo, name, revision=revision, endpoint=self.endpoint)
        return url

    @contextmanager
    def _errors_of(self, model: Model, revision: str | None) -> Iterator[None]:
        from httpx2 import HTTPError, InvalidURL
        from huggingface_hub import errors

        try:
            yield
        except errors.GatedRepoError as error:
            raise HubError(
                f"{model.repo} is gated: accept its licence on {model.page} while logged in, then "
                f"pull again with a token of that account in {TOKENS[0]}. {self.token}"
            ) from error
        except errors.RepositoryNotFoundError as error:
            raise HubError(
                f"{self.endpoint} has no {model.repo}, or does not show it to you: see "
                f"{model.page}, and whether its licence must be accepted there. {self.token}"
            ) from error
        except errors.RevisionNotFoundError as error:
            raise InvalidRequest(
                f"{model.repo} has no revision {revision!r}; {model.page}/commits/main lists them."
            ) from error
        except errors.RemoteEntryNotFoundError as error:
            raise HubError(
                f"{model.repo} at {revision or 'main'} lacks one of {', '.join(model.files)}. "
                f"See {model.page}/tree/{revision or 'main'}."
            ) from error
        except errors.OfflineModeIsEnabled as error:
            raise HubError(
                f"HF_HUB_OFFLINE is set, and {model.name} is not in the cache at {self.cache}. "
                "Unset it, or give a folder that has the files with --from."
            ) from error
        except errors.HfHubHTTPError as error:
            raise self._refusal(model, error.response.status_code) from error
        except InvalidURL as error:
            raise self._no_hub(error) from error
        except HTTPError as error:
            raise Interrupted(
                f"{self.endpoint} cannot be reached ({_first_line(error)}). Check the network, "
                "your proxy and HF_ENDPOINT, or give a folder that has the files with --from."
            ) from error

    def _no_hub(self, reason: object) -> HubError:
        return HubError(
            f"{self.endpoint} does not answer as a hub does ({_first_line(reason)}). Check "
            "HF_ENDPOINT, and whether a proxy answers in its place."
        )

    def _refusal(self, model: Model, status: int) -> HubError:
        if status == 401:
            return HubError(
                f"{self.endpoint} refuses the token (401): it is wrong, or has expired. Make one "
                f"on {HUB}/settings/tokens, or unset the variable to pull without. {self.token}"
            )
        if status == 403:
            return HubError(
                f"{self.endpoint} forbids {model.repo} (403): the token needs the right to read "
                f"gated repositories, and {model.page} may want its licence accepted. {self.token}"
            )
        if status == 429 or status >= 500:
            return Interrupted(
                f"{self.endpoint} is overloaded or failing ({status}). Try again in some minutes; "
                "what has arrived is kept."
            )
        return HubError(f"{self.endpoint} refuses {model.repo} ({status}). {self.token}")


def _licence(card: Any) -> str:
    """Of a model card's header; those outside the hub's list have a name of their own."""
    if card is None:
        return ""
    licence = card.get("license")
    if licence == "other":
        licence = card.get("license_name")
    return str(licence or "")


def _first_line(error: object) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
