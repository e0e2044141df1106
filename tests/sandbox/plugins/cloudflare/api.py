"""Calls of Cloudflare's REST API, version 4."""

from __future__ import annotations

import itertools
import threading
from typing import Any, Final
from urllib.parse import urlencode

import requests

from tests.sandbox.plugins.resource import PlainError

DEFAULT_URL: Final = "https://api.cloudflare.com/client/v4"
_CALL_SECONDS = 30


class CloudflareApi:
    """One API, one token; every failure is a PlainError in the words of the real plugin."""

    def __init__(self) -> None:
        self._base = DEFAULT_URL
        self._token = ""
        self._local = threading.local()

    def configure(self, base_url: str, token: str) -> None:
        """Take the address and the token."""
        self._base = base_url.rstrip("/")
        self._token = token

    def call(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the result of a call that must succeed."""
        response = self._send(method, path, body)
        if not response.ok:
            raise PlainError(_failure(method, response))
        return dict(response.json()["result"])

    def listed(self, path: str, query: dict[str, str], most: int) -> list[dict[str, Any]]:
        """Return up to `most` of the things at a path: page by page, until one is empty."""
        found: list[dict[str, Any]] = []
        for page in itertools.count(1):
            url = f"{path}?{urlencode({**query, 'page': str(page)})}"
            response = self._send("GET", url, None)
            if not response.ok:
                raise PlainError(_failure("GET", response))
            shown = response.json()["result"]
            found += shown
            if not shown or len(found) >= most:
                break
        return found[:most]

    def find(self, path: str) -> dict[str, Any] | None:
        """Return the thing at a path, or None when there is none."""
        response = self._send("GET", path, None)
        if response.status_code == requests.codes.not_found:
            return None
        if not response.ok:
            raise PlainError(_failure("GET", response))
        return dict(response.json()["result"])

    def _send(self, method: str, path: str, body: dict[str, Any] | None) -> requests.Response:
        headers = {"Authorization": f"Bearer {self._token}"} if self._token else {}
        url = f"{self._base}/{path}"
        try:
            return self._session().request(
                method, url, json=body, headers=headers, timeout=_CALL_SECONDS
            )
        except requests.RequestException as error:
            raise PlainError(
                f'failed to make http request: {method} "{url}": {error}; check the provider\'s '
                "baseUrl and the network"
            ) from error

    def _session(self) -> requests.Session:
        session: requests.Session | None = getattr(self._local, "session", None)
        if session is None:
            session = requests.Session()
            self._local.session = session
        return session


def _failure(method: str, response: requests.Response) -> str:
    return (
        f'failed to make http request: {method} "{response.url}": {response.status_code} '
        f"{response.reason} {response.text.strip()}"
    )
