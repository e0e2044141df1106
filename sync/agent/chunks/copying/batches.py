"""Batches: the keys of a page that are fetched with one MGET."""

from bisect import bisect_right
from dataclasses import dataclass
from itertools import accumulate

from sync.agent.chunks.scan.spans import Page
from sync.agent.digests import HASH_BYTES
from sync.agent.zdb.scan_pages import Entry, check_payload_bytes


@dataclass(slots=True)
class Batch:
    """Entries fetched with one MGET. ordered: of plain keys, which may be listed more than once."""

    page: Page
    entries: list[Entry]
    lengths: list[int]
    ordered: bool

    @property
    def payload_bytes(self) -> int:
        """Sum of the listed lengths."""
        return sum(self.lengths)

    def request(self) -> bytes:
        """Encode the MGET."""
        keys = [entry[0] for entry in self.entries]
        head = b"*%d\r\n$4\r\nMGET\r\n" % (len(keys) + 1)
        if not self.ordered:
            return b"%b$16\r\n%b\r\n" % (head, b"\r\n$16\r\n".join(keys))
        return head + b"".join([b"$%d\r\n%b\r\n" % (len(key), key) for key in keys])


def cut(
    page: Page,
    entries: list[Entry],
    batch_keys: int,
    batch_bytes: int,
    plain_keys: int | None = None,
) -> list[Batch]:
    """Cut entries of a page into batches of at most so many keys and about so many bytes.

    plain_keys: how many of those that are no hash, if they are to be fewer. The listing's hold on
    the page is passed on to its batches. Raises ZdbProtocolError.
    """
    plain_keys = min(batch_keys, plain_keys or batch_keys)
    hashes, plain = entries, list[Entry]()
    if page.plain_keys:
        # An overwritten key is listed again at the end of the index: only the order in which its
        # payloads are stored makes the last one stay. A hash has but one payload.
        plain = [entry for entry in entries if len(entry[0]) != HASH_BYTES]
        hashes = [entry for entry in entries if len(entry[0]) == HASH_BYTES]
    batches = _cut(page, hashes, batch_keys, batch_bytes, ordered=False)
    batches += _cut(page, plain, plain_keys, batch_bytes, ordered=True)
    page.divide(len(batches))
    return batches


def _cut(
    page: Page, entries: list[Entry], batch_keys: int, batch_bytes: int, *, ordered: bool
) -> list[Batch]:
    # zdbd refuses more than 1,024 arguments and closes (zdbd/redis.c, redis_handle_resp_empty):
    # the spec allows no more keys than fit.
    lengths = page.lengths if entries is page.entries else [int(entry[1]) for entry in entries]
    check_payload_bytes(max(lengths, default=0))
    ends = list(accumulate(lengths))
    batches: list[Batch] = []
    start = 0
    taken = 0
    while start < len(entries):
        end = min(bisect_right(ends, taken + batch_bytes), start + batch_keys)
        # A chunk larger than a batch goes alone.
        end = max(end, start + 1)
        batches.append(Batch(page, entries[start:end], lengths[start:end], ordered))
        start, taken = end, ends[end - 1]
    return batches
