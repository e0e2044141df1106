"""What the master's bootstrap service says it has (0-bootstrap: bootstrap.py, templates)."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from html.parser import HTMLParser
from typing import Final

from sync.agent.master.client import HttpError, HttpMissingError, Master
from sync.contract import names

MAX_LISTING_BYTES: Final = 16 << 20
_DATE: Final = re.compile(r"(\d{4})-(\d\d)-(\d\d), (\d\d):(\d\d):(\d\d) \(UTC\)", re.ASCII)
_HREF: Final = "/kernel/"
NET: Final = "net"


@dataclass(frozen=True)
class Kernel:
    """A kernel that the master lists; updated_seconds: unix time, None where it does not say."""

    name: str
    updated_seconds: float | None


@dataclass(frozen=True)
class Listing:
    """A complete listing. refused: names that must not become a path.

    date_seconds: the master's clock at the time, unix seconds.
    """

    kernels: tuple[Kernel, ...]
    refused: tuple[str, ...] = ()
    date_seconds: float | None = field(default=None, compare=False)


def fetch(master: Master) -> Listing:
    """Ask /api/images, or read the page /images of older revisions. Raises HttpError."""
    with master.while_listing():
        return _fetched(master)


def _fetched(master: Master) -> Listing:
    try:
        page = master.get("/api/images", MAX_LISTING_BYTES)
        rows = _rows(page.json())
    except HttpMissingError:
        page = master.get("/images", MAX_LISTING_BYTES)
        if not page.whole:
            raise HttpError("/images: the master does not say how long it is", retry=True) from None
        rows = _page_rows(page.body.decode("utf-8", "replace"))
    return _checked(rows, page.date_seconds)


def checked_kernel(name: object) -> str:
    """Return `name` if it may be a kernel's, else raise RefusedNameError."""
    plain = names.checked(name, "kernel")
    if plain == NET:
        raise names.RefusedNameError(f"refused kernel name {plain!r}: the folder of the net links")
    return plain


def _checked(rows: Iterator[tuple[object, float | None]], date: float | None) -> Listing:
    kernels: dict[str, Kernel] = {}
    refused: list[str] = []
    for name, updated in rows:
        try:
            checked = checked_kernel(name)
        except names.RefusedNameError as error:
            refused.append(str(error))
            continue
        kernels[checked] = Kernel(checked, updated)
    return Listing(tuple(kernels.values()), tuple(refused), date)


def _rows(data: object) -> Iterator[tuple[object, float | None]]:
    if not isinstance(data, list):
        raise HttpError("/api/images: not a list", retry=True)
    for row in data:
        if not isinstance(row, dict):
            yield None, None  # refused: a text that is no row would do for a name
            continue
        yield row.get("name"), _seconds(row)


def _seconds(row: dict[str, object]) -> float | None:
    timestamp = row.get("timestamp")
    if isinstance(timestamp, int | float) and not isinstance(timestamp, bool):
        return float(timestamp)
    return _parsed_date(str(row.get("updated", "")))


def _parsed_date(text: str) -> float | None:
    found = _DATE.search(text)
    if not found:
        return None
    try:
        year, month, day, hour, minute, second = map(int, found.groups())
        return datetime(year, month, day, hour, minute, second, tzinfo=UTC).timestamp()
    except ValueError:
        return None


class _ImagesPage(HTMLParser):
    """Collects `<a href="/kernel/NAME">` and the date in the cell that follows."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[tuple[str, float | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        href = dict(attrs).get("href") or ""
        if tag == "a" and href.startswith(_HREF):
            self.rows.append((href.removeprefix(_HREF), None))

    def handle_data(self, data: str) -> None:
        updated = _parsed_date(data)
        if updated is not None and self.rows:
            self.rows[-1] = (self.rows[-1][0], updated)


def _page_rows(html: str) -> Iterator[tuple[object, float | None]]:
    page = _ImagesPage()
    page.feed(html)
    if not page.rows and "kernel" not in html.lower():
        raise HttpError("/images: not the list of kernels", retry=True)
    yield from page.rows
