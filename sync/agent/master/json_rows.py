"""A long JSON page of a master, read row by row as it comes.

A page of some megabytes makes ten times as much of objects, and a few kilobytes of gzip make such a
page. So neither the page nor its objects are ever there as a whole: a row is, and whoever takes the
rows decides how many are kept (docs/adr/0024-json-pages-are-read-row-by-row.md).
"""

import codecs
import re
from collections.abc import Callable, Iterator
from json import JSONDecodeError, JSONDecoder
from typing import Final, TypeVar

from sync.agent.master.http1 import HttpError

_T = TypeVar("_T")
# A row of a hub or a bootstrap server holds a few names of at most 255 bytes.
ROW_CHARACTERS: Final = 1 << 16
# Of all values, also of those that Python alone writes: NaN and Infinity.
_BEGINNINGS: Final = frozenset('[{"-0123456789tfnNI')
_JSON: Final = JSONDecoder()
_IN_TEXT: Final = re.compile(r'["\\]')
_ANY: Final = re.compile(r".", re.DOTALL)
# Whatever is cut off in it, the error is at its start: -Infinity, or an escape in a text.
_LONGEST_WORD: Final = 16
_BETWEEN: Final = re.compile(r'["\[\]{},]')
# Insignificant whitespace (RFC 8259, 2).
_BLANKS: Final = re.compile(r"[ \t\n\r]*")


class LeftOut:
    """Stands for a value that was not read."""

    def __repr__(self) -> str:
        """Say why."""
        return f"(more than {ROW_CHARACTERS} characters, or too deep, or too long a number)"


class JsonRows:
    """JSON text that comes in pieces: walk down to the rows, and take one after the other.

    Each method raises HttpError where the text is no JSON. A value that is longer than
    ROW_CHARACTERS, or that Python reads none of (deep, or a number of thousands of digits), is a
    LeftOut: whoever takes the rows refuses that one alone.
    """

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        # Bytes that are no UTF-8 become lone surrogates: whoever takes the name refuses it alone.
        self._decode = codecs.getincrementaldecoder("utf-8")("surrogateescape").decode
        self._text = ""
        self._at = 0
        self._ended = False

    def begins(self, opening: str) -> bool:
        """Return whether an array ("[") or an object ("{") comes next."""
        found = self._next()
        if found not in _BEGINNINGS:
            raise self._wrong(f"{found!r} begins no value")
        return found == opening

    def rows(self) -> Iterator[object]:
        """Yield the values of the array that comes next."""
        self._take("[")
        if self._next() == "]":
            self._at += 1
            return
        while True:
            yield self.value()
            if self._ends("]"):
                return

    def members(self) -> Iterator[str]:
        """Yield the keys of the object that comes next; whoever does takes the value of each."""
        self._take("{")
        if self._next() == "}":
            self._at += 1
            return
        while True:
            if self._next() != '"':
                raise self._wrong("a key that is no text")
            key = self.value()
            self._take(":")
            yield key if isinstance(key, str) else ""
            if self._ends("}"):
                return

    def value(self) -> object:
        """Return the value that comes next, whole."""
        self._next()
        while True:
            try:
                value, end = _JSON.raw_decode(self._text, self._at)
            except (ValueError, RecursionError) as error:
                # It may be cut off where the text that has come ends.
                if self._more():
                    continue
                if isinstance(error, JSONDecodeError) and not self._is_cut_off(error):
                    raise self._wrong(str(error)) from error
                self._leave_out()
                return LeftOut()
            # So may be a number: 12 of 123.
            if end == len(self._text) and self._more():
                continue
            self._at = end
            return value

    def _is_cut_off(self, error: JSONDecodeError) -> bool:
        """Return whether a value is not read because more of it is to come than is kept."""
        starts_a_text = error.msg.startswith("Unterminated string")
        return not self._ended and (starts_a_text or error.pos >= len(self._text) - _LONGEST_WORD)

    def _leave_out(self) -> None:
        """Go to the end of the value that comes next, of which nothing is kept."""
        depth, in_text = 0, False
        while True:
            mark = self._past(_IN_TEXT if in_text else _BETWEEN)
            if in_text:
                in_text = mark != '"'
                if mark == "\\":
                    self._past(_ANY)  # says nothing here
            elif mark == '"':
                in_text = True
            elif mark in "[{":
                depth += 1
            elif not depth:
                self._at -= 1  # a number ends before what follows it
                return
            elif mark in "]}":
                depth -= 1
            if not depth and not in_text:
                return

    def _past(self, pattern: re.Pattern[str]) -> str:
        """Go past the next character that matches, which is returned."""
        while True:
            found = pattern.search(self._text, self._at)
            if found is not None:
                self._at = found.end()
                return found[0]
            self._at = len(self._text)
            if not self._more():
                raise self._wrong("a value that does not end")

    def skip(self) -> None:
        """Leave out the value that comes next; the rows of an array may be many."""
        if self.begins("["):
            for _ in self.rows():
                pass
        else:
            self.value()

    def end(self) -> None:
        """Read to the end: nothing may follow, and only there is a gzip checksum."""
        if self._next():
            raise self._wrong("something follows the end")

    def _ends(self, closing: str) -> bool:
        """Return whether the array or object ends here; else a comma leads to what follows."""
        found = self._next()
        if found not in {closing, ","}:
            raise self._wrong(f"{found!r} where a comma or {closing!r} belongs")
        self._at += 1
        return found == closing

    def _take(self, expected: str) -> None:
        found = self._next()
        if found != expected:
            raise self._wrong(f"{found!r} where {expected!r} belongs")
        self._at += 1

    def _next(self) -> str:
        """Return the character that comes next after blanks, nothing at the end of the text."""
        while True:
            blanks = _BLANKS.match(self._text, self._at)
            self._at = blanks.end() if blanks else self._at
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                return ""

    def _more(self) -> bool:
        """Take more text after what is left of it; False where there is none, or too much left."""
        if self._ended or len(self._text) - self._at > ROW_CHARACTERS:
            return False
        # A good deal at once: a value that is cut off is read once more from its start.
        parts, missing = [self._text[self._at :]], ROW_CHARACTERS
        while missing > 0 and not self._ended:
            data = next(self._pieces, b"")
            self._ended = not data
            parts.append(self._decode(data, self._ended))
            missing -= len(parts[-1])
        self._text, self._at = "".join(parts), 0
        return True

    def _wrong(self, fault: str) -> HttpError:
        return HttpError(f"not JSON: {fault}", retry=False)


def read_all(pieces: Iterator[bytes], take: Callable[[JsonRows], _T]) -> _T:
    """Return what `take` makes of JSON text, which is read to its end. Raises HttpError."""
    rows = JsonRows(pieces)
    taken = take(rows)
    rows.end()
    return taken
