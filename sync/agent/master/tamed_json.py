"""JSON that holds what Python reads none of: nested a thousand deep, or numbers of 5,000 digits.

Both are sound JSON (RFC 8259, 9: a reader may set limits), so one row of a listing that has them
must not cost the others. Only such values are left out, as null; whoever reads a row refuses it.
"""

import json
import re
from typing import Final

# Listings are nested four deep; deeper than this nothing is kept.
DEEPEST: Final = 32
# A string that does not end goes to the end: no place in it is looked at twice.
_PARTS: Final = re.compile(
    r'"[^"\\]*(?:\\.[^"\\]*)*(?:"|\\?\Z)|[\[{]|[\]}]|-?[0-9]{300,}(?:[.eE+0-9-]*)', re.DOTALL
)


def read(body: bytes) -> object:
    """Return the value of a JSON page. Raises ValueError where it is none.

    Bytes that are no UTF-8 become lone surrogates: a name that holds them is refused alone.
    """
    encoding = json.detect_encoding(body)
    errors = "surrogateescape" if encoding.startswith("utf-8") else "surrogatepass"
    text = body.decode(encoding, errors)
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        raise
    except (ValueError, RecursionError):
        return json.loads(tamed(text))


def tamed(text: str) -> str:
    """Return a JSON text with null in the place of what is too deep, or a number too long."""
    kept: list[str] = []
    depth = start = 0
    for found in _PARTS.finditer(text):
        first = found[0][0]
        if first in "[{":
            depth += 1
            if depth == DEEPEST + 1:
                kept += text[start : found.start()], "null"
        elif first in "]}":
            depth -= 1
            if depth == DEEPEST:
                start = found.end()
        elif first != '"' and depth <= DEEPEST:
            kept += text[start : found.start()], "null"
            start = found.end()
    if depth > DEEPEST:
        return ""  # it ends within: no JSON
    return "".join([*kept, text[start:]])
