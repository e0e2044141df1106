"""A connection to one namespace of a 0-db: its session and its commands."""

import hashlib
import re
import socket
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, Self

from typing_extensions import override

from sync.agent.zdb.errors import ZdbAuthError, ZdbError, ZdbReplyError
from sync.agent.zdb.namespace_info import NamespaceInfo, boot_of, text_fields
from sync.agent.zdb.protocol import (
    MAX_KEY_BYTES,
    MAX_PAYLOAD_BYTES,
    Reply,
    Status,
    encode,
    expect,
)
from sync.agent.zdb.scan_pages import (
    PAGE_BYTES,
    Cursor,
    Entry,
    ScanPage,
    read_page,
)
from sync.agent.zdb.transport import WINDOW_BYTES, ZdbTransport
from sync.contract.spec import ZdbEndpoint

# zdbd takes 1,023 (zdbd/redis.c), and answers an MGET as a whole.
_MGET_KEYS: Final = 50
# What an element of an MGET may take beside its payload: an error's line, at most.
_ELEMENT_BYTES: Final = 1 << 10
# Room for the names of a server's namespaces.
_NAMES_BYTES: Final = 4 << 20
_NEWEST_KEYS: Final = 8
# By how much a server that is busy may answer WAIT too late.
_LATE_SECONDS: Final = 5.0
# EXISTS goes in groups, two of which fill the window.
_EXISTS_GROUPS: Final = 2
_EXISTS_FRAME_BYTES: Final = len(b"*2\r\n$6\r\nEXISTS\r\n$255\r\n\r\n")


def _exists_requests(keys: Sequence[bytes]) -> bytes:
    """Return a request for each key; quick where all keys are of one size, as hashes are."""
    size = len(keys[0])
    if {*map(len, keys)} == {size}:
        head = b"*2\r\n$6\r\nEXISTS\r\n$%d\r\n" % size
        return head + (b"\r\n" + head).join(keys) + b"\r\n"
    return b"".join([encode(b"EXISTS", key) for key in keys])


class ZdbConnection(ZdbTransport):
    """One connection, one namespace; errors and threads as of its transport."""

    namespace = ""
    _endpoint: ZdbEndpoint | None = None
    _password: str | None = None
    # What a page of `scan` may take in memory.
    page_bytes = PAGE_BYTES

    @classmethod
    def open(
        cls, endpoint: ZdbEndpoint, password: str | None = None, timeout_seconds: float = 30
    ) -> Self:
        """Connect, become admin where a password is given, and select the namespace.

        timeout_seconds: for connecting, and for silence while a reply is awaited.
        Raises ZdbConnectionError, ZdbAuthError (password or namespace refused), ZdbError.
        """
        connection = cls(endpoint, timeout_seconds)
        connection._endpoint, connection._password = endpoint, password
        try:
            if password is not None:
                connection.authenticate(password)
            connection.select(endpoint.namespace, password)
        except BaseException:
            connection.close()
            raise
        return connection

    # Session

    @override
    def _opened_again(self) -> socket.socket | None:
        if self._endpoint is None:
            return None
        here = self._endpoint.model_copy(update={"namespace": self.namespace})
        try:
            fresh = ZdbConnection.open(here, self._password, self._timeout_seconds)
            return fresh.hand_over()
        except ZdbError:
            return None

    def authenticate(self, password: str) -> None:
        """Become admin; raise ZdbAuthError when the password is wrong."""
        try:
            self.call(b"AUTH", b"SECURE", self._proof(password))
        except ZdbReplyError as error:
            # Said where no --admin is set: every client is admin then (zdbd/commands_auth.c).
            if error.reason != "Authentication disabled":
                raise ZdbAuthError(
                    f"0-db {self._where} refused the admin password ({error.reason}); "
                    "this mirror's own stands in /secrets/zdb-admin, which `pulumi up` writes anew"
                ) from error

    def select(self, namespace: str, password: str | None = None) -> None:
        """Change to a namespace, to write where a password is given.

        Raises ZdbAuthError when there is no such namespace or it refuses the password.
        """
        arguments = [b"SELECT", namespace.encode()]
        if password is not None:
            arguments += [b"SECURE", self._proof(password)]
        try:
            self.call(*arguments)
        except ZdbReplyError as error:
            raise ZdbAuthError(
                f"0-db {self._where}: namespace {namespace!r} refused ({error.reason}); "
                "a master's is set as source.zdb.namespace"
            ) from error
        self.namespace = namespace

    def _proof(self, password: str) -> bytes:
        # A nonce serves one proof (zdbd/commands_auth.c, command_auth_secure), so each asks anew.
        challenge = self.call(b"AUTH", b"SECURE", b"CHALLENGE")
        if not isinstance(challenge, Status):
            raise self._wrong("no challenge")
        digest = hashlib.sha1(f"{challenge}:{password}".encode(), usedforsecurity=False)
        return digest.hexdigest().encode()

    # Reading

    def exists(self, keys: Sequence[bytes]) -> list[bool]:
        """Return for each key whether the namespace has it."""
        longest = max(map(len, keys), default=0)
        size = WINDOW_BYTES // _EXISTS_GROUPS // (_EXISTS_FRAME_BYTES + longest)
        groups = [keys[at : at + size] for at in range(0, len(keys), size)]
        pieces = ((_exists_requests(group), len(group)) for group in groups)
        found = self._exchange(pieces, together=True)
        if {*map(type, found)} <= {int}:
            return [reply == 1 for reply in found]
        with self._understanding():
            return [expect(reply, int, "EXISTS") == 1 for reply in _without_errors(found)]

    def lengths(self, keys: Sequence[bytes]) -> list[int | None]:
        """Payload lengths (bytes) of the keys, None for one that is not there.

        For those who have to know what an MGET will take. A length that no 0-db can have is as good
        as none: the key cannot be had.
        """
        with self._understanding():
            return [_length(reply) for reply in self.pipeline([(b"LENGTH", key) for key in keys])]

    def mget(self, keys: Sequence[bytes], payload_bytes: int | None = None) -> list[bytes | None]:
        """Payloads of the keys, None for one that is not there.

        payload_bytes: what all of them may take; None: as much as a 0-db can have of so many keys.
        """
        return self._mget(keys, [], payload_bytes)[1]

    def _mget(
        self, keys: Sequence[bytes], before: Sequence[Sequence[bytes]], payload_bytes: int | None
    ) -> tuple[list[Reply], list[bytes | None]]:
        """Return replies to the requests `before`, and payloads: all is asked at once."""
        groups = [keys[at : at + _MGET_KEYS] for at in range(0, len(keys), _MGET_KEYS)]
        if payload_bytes is None:
            payload_bytes = MAX_PAYLOAD_BYTES * len(keys)
        requests = [*before, *((b"MGET", *group) for group in groups)]
        replies = self.pipeline(requests, payload_bytes + _ELEMENT_BYTES * len(keys))
        payloads: list[bytes | None] = []
        for group, reply in zip(groups, _without_errors(replies[len(before) :]), strict=True):
            with self._understanding():
                items = expect(reply, list, "MGET")
            if len(items) != len(group):
                raise self._wrong(f"MGET of {len(group)} keys gave {len(items)} replies")
            payloads += [item if isinstance(item, bytes) else None for item in items]
        return replies[: len(before)], payloads

    def mget_timed(
        self, keys: Sequence[bytes], payload_bytes: int | None = None
    ) -> list[tuple[bytes, int | None] | None]:
        """Payloads of the keys with their timestamps (unix seconds), None for one not there.

        The times cost no round trip of their own. A server that refuses KEYTIME, as one does that
        is too old for it, gives payloads with None for the time. payload_bytes: as of `mget`.
        """
        times, payloads = self._mget(keys, [(b"KEYTIME", key) for key in keys], payload_bytes)
        # nil for a key that is not there, also one that was deleted (zdbd/commands_dataset.c).
        with self._understanding():
            return [
                None if payload is None or time is None else (payload, _seconds(time))
                for payload, time in zip(payloads, times, strict=True)
            ]

    def scan(self, cursor: Cursor | None = None, *, backwards: bool = False) -> ScanPage | None:
        """Entries after the cursor (None: from the first) in index order; None at the end.

        backwards: entries before the cursor (None: from the last); None at the start.
        Raises ZdbReplyError ("Invalid key format") for a cursor that is not this namespace's.
        """
        command = b"RSCAN" if backwards else b"SCAN"
        self._parser.allow(self.page_bytes)
        self._send(encode(command, cursor.raw) if cursor else encode(command))
        return self._answer(lambda: read_page(self._parser))

    def pages(self) -> Iterator[list[Entry]]:
        """Yield the entries of the whole namespace in index order, page by page."""
        page = self.scan()
        while page:
            yield page.entries
            following = self.scan(page.cursor)
            if following and following.cursor.position <= page.cursor.position:
                raise self._wrong("SCAN: the cursor does not advance")
            page = following

    def accepts(self, cursor: Cursor) -> bool:
        """Return whether the namespace knows a cursor; raises for anything but yes or no."""
        try:
            self.scan(cursor)
        except ZdbReplyError as error:
            # Its fields are compared with the index item it points at (libzdb/index.c,
            # index_entry_deserialize): another history gives other items there.
            if error.reason == "Invalid key format":
                return False
            raise
        return True

    def newest_cursor(self) -> Cursor | None:
        """Return the cursor of the newest entry; None where there is none."""
        page = self.scan(backwards=True)
        if page is None:
            return None
        # The page's own cursor stands on its oldest entry (zdbd/commands_scan.c); and the newest
        # entry may have been deleted since it was listed.
        keys = [entry[0] for entry in page.entries[:_NEWEST_KEYS]]
        replies = self.pipeline([(b"KEYCUR", key) for key in keys])
        found = (reply for reply in replies if isinstance(reply, bytes))
        with self._understanding():
            return next((Cursor(reply) for reply in found), page.cursor)

    def nsinfo(self) -> NamespaceInfo:
        """Facts about this connection's namespace."""
        with self._understanding():
            request = (b"NSINFO", self.namespace.encode())
            return NamespaceInfo.of(self.call(*request, payload_bytes=0))

    def count_keys(self) -> int:
        """Count the keys of all namespaces of the server."""
        # NSLIST and NSINFO show those that may not be read, too (zdbd/commands_namespace.c).
        names = [name.encode() for name in self.namespaces()]
        replies = self.pipeline([(b"NSINFO", name) for name in names])
        with self._understanding():
            return sum(NamespaceInfo.of(reply).entries for reply in _without_errors(replies))

    def nsinfo_and_boot(self) -> tuple[NamespaceInfo, str]:
        """Facts about the namespace, and which start of which server says so (see boot_of)."""
        info, about = self.pipeline([(b"NSINFO", self.namespace.encode()), (b"INFO",)])
        (info,) = _without_errors([info])
        with self._understanding():
            # One that tells nobody of itself is not known again.
            said = "" if isinstance(about, ZdbReplyError) else boot_of(text_fields(about, "INFO"))
            return NamespaceInfo.of(info), said

    def info(self) -> dict[str, str]:
        """Facts about the server, among them instance_id and boot_time."""
        with self._understanding():
            return text_fields(self.call(b"INFO", payload_bytes=0), "INFO")

    def namespaces(self) -> list[str]:
        """Names of all namespaces of the server."""
        with self._understanding():
            items = expect(self.call(b"NSLIST", payload_bytes=_NAMES_BYTES), list, "NSLIST")
            return [expect(item, bytes, "NSLIST").decode("utf-8", "replace") for item in items]

    def wait_for(self, command: str, seconds: float) -> bool:
        """Block until another client runs `command` in this namespace; False after `seconds`.

        seconds: 0.1 to 1800.
        """
        # WAIT is answered out of order (zdbd/redis.c, redis_watch_timeout): a nudge's PONG would
        # come before its reply.
        self._nudge = False
        kept = self._timeout_seconds
        # Its reply is due by then, unless it is lost on the way.
        self._timeout_seconds = seconds + min(kept, _LATE_SECONDS)
        try:
            self.call(b"WAIT", command.encode(), b"%d" % int(seconds * 1000))
        except ZdbReplyError as error:
            if error.reason == "Timeout":
                return False
            raise
        finally:
            self._nudge = True
            self._timeout_seconds = kept
        return True

    # Writing

    def set_many(self, items: Iterable[tuple[bytes, bytes, int | None]]) -> list[bool]:
        """Store (key, payload, timestamp) in order; False where the namespace had the payload.

        timestamp: unix seconds, for an admin; without it the server's own time.
        """
        replies = _without_errors(self.pipeline(_set_request(*item) for item in items))
        # nil: the namespace has this payload (zdbd/commands_set.c, data_compare_matching).
        return [reply is not None for reply in replies]

    def delete_many(self, keys: Iterable[bytes]) -> list[bool]:
        """Remove keys; False for each that was not there."""
        # So that the connection did not rest: a DEL that is asked twice says that no key was there.
        self.call(b"PING")
        replies = self.pipeline((b"DEL", key) for key in keys)
        for reply in replies:
            # Said as well of a key that was deleted before (zdbd/commands_dataset.c).
            if isinstance(reply, ZdbReplyError) and reply.reason != "Key not found":
                raise ZdbReplyError(reply.reason, "DEL")
        return [not isinstance(reply, ZdbReplyError) for reply in replies]

    # Namespaces, as admin

    def namespace_create(self, namespace: str) -> bool:
        """Create a namespace; False where it exists already."""
        if namespace in self.namespaces():
            return False
        self.call(b"NSNEW", namespace.encode())
        return True

    def namespace_protect(self, namespace: str, password: str) -> None:
        """Let all read a namespace and only those with the password write it.

        password: at most 63 bytes. The default namespace is protected by zdbd's own --protect.
        """
        # "*" clears the password; NSSET takes 63 bytes (zdbd/commands_namespace.c, command_nsset).
        if not re.fullmatch(r"[!-~]{1,63}", password) or password == "*":  # noqa: S105
            raise ZdbError("a namespace password is 1 to 63 printable ASCII characters, not '*'")
        for setting, value in ((b"password", password.encode()), (b"public", b"1")):
            self.call(b"NSSET", namespace.encode(), setting, value)


def _without_errors(replies: list[Reply]) -> list[Reply]:
    """Return the replies, or raise the first that is an error."""
    failed = next((reply for reply in replies if isinstance(reply, ZdbReplyError)), None)
    if failed:
        raise failed
    return replies


def _length(reply: Reply) -> int | None:
    """Read an answer to LENGTH (zdbd/commands_dataset.c, command_length)."""
    # nil for a key that is not there; an error for one that cannot be looked up is as good as that.
    if reply is None or isinstance(reply, ZdbReplyError):
        return None
    length = expect(reply, int, "LENGTH")
    return length if 0 <= length <= MAX_PAYLOAD_BYTES else None


def _seconds(reply: Reply) -> int | None:
    return None if isinstance(reply, ZdbReplyError) else expect(reply, int, "KEYTIME")


def _set_request(key: bytes, payload: bytes, timestamp: int | None) -> tuple[bytes, ...]:
    if not 0 < len(key) <= MAX_KEY_BYTES:
        raise ZdbError(f"a key of {len(key)} bytes; 0-db takes 1 to {MAX_KEY_BYTES}")
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise ZdbError(f"a payload of {len(payload)} bytes; 0-db takes up to {MAX_PAYLOAD_BYTES}")
    request = (b"SET", key, payload)
    return request if timestamp is None else (*request, b"%d" % timestamp)
