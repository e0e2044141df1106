"""Workloads' flists: any URL on plain port 80 (zosbase, pkg/flist/flist.go).

flistd dials once and gives the HTTP client that connection for whatever it asks: a redirect, to
whichever place, finds it used up and ends as an error after 31 s of tries.
"""

import http.client
from http import HTTPStatus
from typing import Final

from tests.sandbox.node.reading import Booted, Reader, check_md5
from tests.sandbox.node.report import NodeError, Phase
from tests.sandbox.node.web import Answer, Connection, quoted

_MD5_LETTERS: Final = 32
_UNKNOWN: Final = "no-such-flist"


class Flistd:
    """The flist daemon of one node. plain: base URL of the hub on port 80."""

    def __init__(self, reader: Reader, plain: str) -> None:
        self._reader, self._plain = reader, plain

    def mount(self, path: str, phase: Phase) -> Booted:
        """Mount `REPO/F.flist` or `REPO/tags/T/F.flist`, read all of it; raises NodeError."""
        answer = self._directly(f"/{path}", phase)
        if answer.status != HTTPStatus.OK:
            raise NodeError(f"{answer.url}: {answer.words}")
        announced = self._md5(path, phase)
        booted = self._reader.read(path, answer.body, phase)
        if announced is not None:
            check_md5(path, answer.body, announced)
        return booted

    def _md5(self, path: str, phase: Phase) -> str | None:
        """Return what FlistHash returns; None where the hub has no MD5 (a tag's content)."""
        answer = self._directly(f"/{path}.md5", phase)
        if answer.status == HTTPStatus.NOT_FOUND and "/tags/" in path:
            return None
        told = answer.body.decode("ascii", "replace").strip()
        if answer.status != HTTPStatus.OK or len(told) != _MD5_LETTERS:
            raise NodeError(f"{answer.url}: {answer.words}, {told[:40]!r} is no MD5")
        return told

    def strangers(self, repository: str, phase: Phase) -> None:
        """Ask for what is not there, and for a `.fl`: both are answered where they are asked."""
        for name, allowed in (
            (f"{_UNKNOWN}.flist", {404}),
            (f"{_UNKNOWN}.flist.md5", {404}),
            (f"{_UNKNOWN}.fl", {404}),
        ):
            with phase.trying():
                answer = self._directly(f"/{repository}/{name}", phase)
                if answer.status not in allowed:
                    raise NodeError(f"{answer.url}: {answer.words}, not 404")

    def _directly(self, path: str, phase: Phase) -> Answer:
        """Ask on a connection of its own; raises NodeError for a redirect."""
        url = self._plain + quoted(path)
        connection = Connection(url, self._reader.network, None)
        try:
            answer = connection.get(url, {"Connection": "close"})
        except (OSError, http.client.HTTPException) as error:
            raise NodeError(f"{url}: {error or type(error).__name__}") from error
        finally:
            connection.close()
        phase.note(f"GET {url}", f"{answer.words}, {len(answer.body)} bytes")
        if answer.moved:
            raise NodeError(f"{url}: {answer.words}: flistd has one connection and fails")
        return answer
