"""Tells an uploader why the packer refused: the hub itself would answer a bare 500.

And has what opens a flist for anybody wait for its turn.

The hub's config.py imports this, when Flask is there already (0-hub: src/flist-uploader.py). What
zflist puts out and is no JSON ends a request with json's error (src/hub/flist.py, execute); the
error holds the text, which here is the packer's sentence (packer.py, front.py).
"""

from __future__ import annotations

import html
import importlib
import json
import sys
import threading
from collections.abc import Callable
from typing import Any

REFUSED = "packer: refused: "
_SAID = ("packer: ", "the packer ")
_BAD_REQUEST, _ERROR = 400, 500
# What opens a flist (src/flist-uploader.py: api_contents, api_flist_md), without a token.
_OPENING = ("contents", "allmetadata")
OPENED_AT_ONCE = 4


def answer(error: BaseException) -> tuple[dict[str, str], int] | None:
    """Return document and status for an error that has the packer's reason, in the API's form."""
    if not isinstance(error, json.JSONDecodeError) or not error.doc.startswith(_SAID):
        return None
    refused = error.doc.startswith(REFUSED)
    message = error.doc[len(REFUSED) :] if refused else error.doc
    return {"status": "error", "message": message.strip()}, _BAD_REQUEST if refused else _ERROR


def tell_clients(application: Any) -> None:
    """Have Flask's class of applications answer with reasons."""
    handled = application.handle_user_exception

    def handle(self: Any, error: BaseException) -> Any:
        told = answer(error)
        return handled(self, error) if told is None else told

    application.handle_user_exception = handle


def tell_page(flists: Any) -> None:
    """Have the upload page, which packs in a thread of its own, show the reason, not wait for ever.

    flists: the class HubPublicFlist. The page takes the text for HTML (src/templates/upload.html).
    """
    created = flists.create

    def create(self: Any, source: str) -> Any:
        try:
            return created(self, source)
        except json.JSONDecodeError as error:
            told = answer(error)
            if told is not None:
                self.raw.progress(html.escape(told[0]["message"]), 0)
                self.announcer.finalize(self.raw.jobid)
            raise

    flists.create = create


def take_turns(flists: Any) -> None:
    """Have few flists opened at a time, whoever asks.

    flists: the class HubPublicFlist. Each takes a process here (front.py: 5 MB) and two in the
    packer; as many as clients may have connections would take the hub's memory, and the packer's
    from an upload. A thread that waits takes next to none.
    """
    slots = threading.BoundedSemaphore(OPENED_AT_ONCE)

    def in_turn(method: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def call(self: Any) -> Any:
            with slots:
                return method(self)

        return call

    for name in _OPENING:
        if hasattr(flists, name):
            setattr(flists, name, in_turn(getattr(flists, name)))


if "flask" in sys.modules:
    tell_clients(sys.modules["flask"].Flask)
    for prepare in (tell_page, take_turns):
        prepare(importlib.import_module("hub.flist").HubPublicFlist)
