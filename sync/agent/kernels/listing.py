"""The kernels that the master lists (0-bootstrap: bootstrap.py, templates), and those wanted."""

import contextlib
import html
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final

from sync.agent.budget import Budget
from sync.agent.clocks import DAY_SECONDS, Clocks
from sync.agent.master.client import HttpError, HttpMissingError, Master, Page
from sync.agent.master.json_rows import JsonRows
from sync.agent.name_room import KERNEL_BYTES, TEXT_BYTES, NameRoom
from sync.contract import names
from sync.contract.spec import KernelsSpec

MAX_LISTING_BYTES: Final = 16 << 20
# Unlike JSON it is read as a whole, and may take four times as much as text, twice over.
MAX_PAGE_BYTES: Final = 8 << 20
PAGE_COST: Final = 9
# As kernel_list of bootstrap.py formats it.
_DATE: Final = re.compile(r"(\d{4}-\d\d-\d\d, \d\d:\d\d:\d\d) \(UTC\)", re.ASCII)
# As templates/kernels.html has them.
_HREF: Final = re.compile(r'href="/kernel/([^"]*)"')
_KERNEL: Final = re.compile("kernel", re.IGNORECASE)
NET: Final = "net"
_YEAR_10000: Final = 253_402_300_800


@dataclass(frozen=True)
class Kernel:
    """A kernel that the master lists; updated_seconds: unix time, None where it does not say."""

    name: str
    updated_seconds: float | None


@dataclass(frozen=True)
class Listing:
    """A complete listing. refused: names that must not become a path. clocks: when it came."""

    kernels: tuple[Kernel, ...]
    refused: tuple[str, ...] = ()
    clocks: Clocks = field(default_factory=Clocks, compare=False)


def fetch(master: Master, spec: KernelsSpec) -> Listing:
    """Ask /api/images, or read the page /images of older revisions. Raises HttpError."""
    budget = Budget.of(spec)
    room = NameRoom.of(budget)
    with master.while_listing():
        try:
            page, listing = master.get_rows(
                "/api/images", MAX_LISTING_BYTES, lambda rows: _listing(_rows(rows), room)
            )
        except HttpMissingError:
            page = master.get("/images", min(MAX_PAGE_BYTES, budget.total_bytes // PAGE_COST))
            listing = _listing(_page_rows(page), room)
    return replace(listing or Listing(()), clocks=Clocks(page.date_seconds))


def _listing(rows: Iterator[tuple[object, float | None]], room: NameRoom) -> Listing:
    kernels: dict[str, Kernel] = {}
    refused: list[str] = []
    with room.page() as part:
        for name, updated in rows:
            try:
                kernel = Kernel(checked_kernel(name), updated)
            except names.RefusedNameError as error:
                part.take(TEXT_BYTES, [str(error)])
                refused.append(str(error))
            else:
                if kernel.name not in kernels:
                    part.take(KERNEL_BYTES, [kernel.name])
                kernels[kernel.name] = kernel
    return Listing(tuple(kernels.values()), tuple(refused))


def wanted(listing: Listing, spec: KernelsSpec, linked: set[str]) -> list[Kernel]:
    """Return the kernels to mirror: those that links name first, then the newest first."""
    clocks = listing.clocks
    now_seconds = clocks.here_seconds if clocks.master_seconds is None else clocks.master_seconds
    by_age = sorted(
        listing.kernels, key=lambda kernel: (-(kernel.updated_seconds or 0.0), kernel.name)
    )
    chosen = [kernel for kernel in by_age if spec.kernels.takes(kernel.name)]
    if spec.max_age_days is not None:
        oldest = now_seconds - spec.max_age_days * DAY_SECONDS
        chosen = [kernel for kernel in chosen if (kernel.updated_seconds or 0.0) >= oldest]
    keep = {kernel.name for kernel in chosen[: spec.newest]}
    first = [kernel for kernel in by_age if kernel.name in linked]
    return first + [kernel for kernel in by_age if kernel.name in keep - linked]


def checked_kernel(name: object) -> str:
    """Return `name` if it may be a kernel's, else raise RefusedNameError."""
    plain = names.checked(name, "kernel")
    if plain == NET:
        raise names.RefusedNameError(f"refused kernel name {plain!r}: the folder of the net links")
    return plain


def _rows(rows: JsonRows) -> Iterator[tuple[object, float | None]]:
    if not rows.begins("["):
        raise HttpError("/api/images: not a list", retry=True)
    for row in rows.rows():
        # What is no row has no name, and is refused as such.
        yield (row.get("name"), _seconds(row)) if isinstance(row, dict) else (None, None)


def _seconds(row: dict[str, object]) -> float | None:
    timestamp = row.get("timestamp")
    if isinstance(timestamp, int | float) and not isinstance(timestamp, bool):
        # Python reads NaN and Infinity in JSON, and integers that no float holds.
        return float(timestamp) if abs(timestamp) < _YEAR_10000 else None
    updated = row.get("updated")
    return _parsed_date(updated) if isinstance(updated, str) else None


def _parsed_date(text: str) -> float | None:
    found = _DATE.search(text)
    if not found:
        return None
    with contextlib.suppress(ValueError):  # as for the 31st of February
        return datetime.strptime(f"{found[1]} +0000", "%Y-%m-%d, %H:%M:%S %z").timestamp()
    return None


def _page_rows(page: Page) -> Iterator[tuple[object, float | None]]:
    """Yield each kernel that a link of the page names, with the date in the cell that follows."""
    # Unlike JSON, HTML that is cut off still reads as a page: with fewer kernels.
    if not page.whole:
        raise HttpError("/images: the master does not say how long it is", retry=True)
    text = page.body.decode("utf-8", "replace")
    found = _HREF.search(text)
    if found is None and not _KERNEL.search(text):
        raise HttpError("/images: not the list of kernels", retry=True)
    while found is not None:
        following = _HREF.search(text, found.end())
        end = len(text) if following is None else following.start()
        yield _unescaped(found[1]), _parsed_date(text[found.end() : end])
        found = following


def _unescaped(name: str) -> str | None:
    # A character reference of thousands of digits (html: _replace_charref) is one's bad name.
    with contextlib.suppress(ValueError):
        return html.unescape(name)
    return None
