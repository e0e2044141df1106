"""What zdbd answers to each command (0-db, zdbd/commands_*.c), with its own words."""

import secrets
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

from tests.sandbox.services.zdb.description import namespace_description, server_description
from tests.sandbox.services.zdb.disk import DiskNamespace
from tests.sandbox.services.zdb.namespace import MAX_KEY_BYTES, NIL, Namespace, bulk, bulk_write
from tests.sandbox.services.zdb.resp import SetRequest, atoll, int32
from tests.sandbox.services.zdb.rights import (
    RefusedError,
    Session,
    answer,
    challenged,
    configure,
    prefix,
    select_rights,
)
from tests.sandbox.services.zdb.store import DEFAULT_NAMESPACE, Store

_NAMESPACE_MAX_BYTES: Final = 128
_PASSWORD_MAX_BYTES: Final = 128
_PROPERTY_MAX_BYTES: Final = 256
_VERSION_BYTES: Final = 8
_NO_VERSION: Final = "Invalid arguments (index query)"
_WAIT_MIN_MS, _WAIT_MAX_MS = 100, 30 * 60 * 1000

Arguments = list[bytes]


class Commands:
    """Executes requests on a store; the caller holds the store's lock."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.clients = 0
        self.requests: Counter[str] = Counter()
        self.unauthorized = 0
        self._names: dict[bytes, str | None] = {}

    def resolve(self, word: bytes) -> str | None:
        """Return the command a word stands for; zdbd takes the first that begins with it."""
        if word not in self._names:
            self._names[word] = next((name for name in _ORDER if _stands_for(word, name)), None)
        return self._names[word]

    def orphaned(self, client: Session) -> bool:
        """Tell whether the client's namespace was removed; such a client is sent away."""
        return self.store.namespaces.get(client.namespace.name) is not client.namespace

    def run(self, client: Session, arguments: Arguments) -> bytes:
        """Execute one request; b"" where the reply comes later (WAIT)."""
        client.executed = name = self.resolve(arguments[0])
        handler = _HANDLERS.get(name or "")
        self.requests[name or "?"] += 1
        if handler is None:
            return b"-Command not supported\r\n"
        try:
            return handler(self, client, arguments)
        except RefusedError as refused:
            return f"-{refused}\r\n".encode()

    # -- reads -------------------------------------------------------------------------------

    def fetch(self, client: Session, keys: tuple[bytes, ...]) -> bytes:
        """Answer an MGET of keys that need no check."""
        client.executed = "MGET"
        self.requests["MGET"] += 1
        try:
            return _found(client, keys)
        except RefusedError as refused:
            return f"-{refused}\r\n".encode()

    def _mget(self, client: Session, arguments: Arguments) -> bytes:
        if len(arguments) < 2:
            raise RefusedError("Invalid arguments")
        if any(len(key) > MAX_KEY_BYTES for key in arguments[1:]):
            raise RefusedError("Invalid key")
        return _found(client, arguments[1:])

    def _get(self, client: Session, arguments: Arguments) -> bytes:
        return client.namespace.replies([_key(client, arguments)])[0]

    def _exists(self, client: Session, arguments: Arguments) -> bytes:
        return b":%d\r\n" % (_key(client, arguments) in client.namespace)

    def _check(self, client: Session, arguments: Arguments) -> bytes:
        key = _key(client, arguments)
        if key not in client.namespace:
            return NIL
        return b":%d\r\n" % client.namespace.intact(key)

    def _length(self, client: Session, arguments: Arguments) -> bytes:
        entry = client.namespace.entry(_key(client, arguments))
        return NIL if entry is None else b":%d\r\n" % entry.length

    def _keytime(self, client: Session, arguments: Arguments) -> bytes:
        entry = client.namespace.entry(_key(client, arguments))
        return NIL if entry is None else b":%d\r\n" % (entry.timestamp & 0xFFFFFFFF)

    def _history(self, client: Session, arguments: Arguments) -> bytes:
        if len(arguments) not in {2, 3}:
            raise RefusedError("Invalid arguments")
        _not_frozen(client)
        key, version = arguments[1], arguments[2] if len(arguments) == 3 else None
        if version is not None and len(version) != _VERSION_BYTES:
            raise RefusedError("Invalid arguments")
        if version is not None and not any(version):
            raise RefusedError("No more history")
        try:
            found = client.namespace.history(key, version)
        except ValueError:
            raise RefusedError("Invalid arguments (invalid key)") from None
        if found is None:
            raise RefusedError("Key not found" if version is None else _NO_VERSION)
        older = NIL if found.older is None else bulk(found.older)
        stamp = bulk(b"%d" % (found.timestamp & 0xFFFFFFFF))
        return b"*3\r\n" + older + stamp + bulk(found.payload)

    def _keycur(self, client: Session, arguments: Arguments) -> bytes:
        _count(arguments, 2)
        _not_frozen(client)
        cursor = client.namespace.cursor_of(arguments[1])
        if cursor is None:
            raise RefusedError("Key not found")
        return bulk(cursor)

    def _scan(self, client: Session, arguments: Arguments) -> bytes:
        _not_frozen(client)
        after = self._cursor(client, arguments, start=-1)
        return _page(client.namespace, client.namespace.page(after))

    def _rscan(self, client: Session, arguments: Arguments) -> bytes:
        _not_frozen(client)
        before = self._cursor(client, arguments, start=client.namespace.log_length)
        return _page(client.namespace, client.namespace.page_back(before))

    def _cursor(self, client: Session, arguments: Arguments, start: int) -> int:
        if len(arguments) == 1:
            return start
        try:
            return client.namespace.position(arguments[1])
        except ValueError:
            raise RefusedError("Invalid key format") from None
        except EOFError:
            raise RefusedError("No more data") from None

    # -- writes ------------------------------------------------------------------------------

    def sets(self, client: Session, writes: list[SetRequest]) -> bytes:
        """Answer consecutive SETs, together where none of them is special."""
        client.executed = "SET"
        self.requests["SET"] += len(writes)
        namespace = client.namespace
        plain = client.writable and not (namespace.locked or namespace.worm)
        limited = namespace.maxsize_bytes or not plain
        if limited or (not client.admin and any(stamp is not None for *_, stamp in writes)):
            return b"".join([self._set_one(client, write) for write in writes])
        now = int(time.time())
        return namespace.store(
            [(key, reply, length, now if at is None else at) for key, reply, length, at in writes]
        )

    def _set_one(self, client: Session, write: SetRequest) -> bytes:
        key, reply, length, stamp = write
        payload = reply[len(reply) - length - 2 : -2]
        extra = [] if stamp is None else [b"%d" % stamp]
        try:
            return self._set(client, [b"SET", key, payload, *extra])
        except RefusedError as refused:
            return f"-{refused}\r\n".encode()

    def _set(self, client: Session, arguments: Arguments) -> bytes:
        stamp = int(time.time())
        if len(arguments) == 4:
            self._admin(client)
            stamp = int32(atoll(arguments[3]))
        elif len(arguments) != 3:
            raise RefusedError("Unexpected arguments")
        key, payload = arguments[1], arguments[2]
        if len(key) > MAX_KEY_BYTES:
            raise RefusedError("Key too large")
        _writable(client)
        self._may_store(client.namespace, key, payload)
        return client.namespace.store([bulk_write((key, payload, stamp))])

    def _may_store(self, namespace: Namespace, key: bytes, payload: bytes) -> None:
        old = namespace.entry(key)
        if old is not None and namespace.worm:
            raise RefusedError("Namespace is protected by worm mode")
        limit = namespace.maxsize_bytes
        if limit and namespace.payload_bytes + len(payload) > limit + (old.length if old else 0):
            raise RefusedError("No space left on this namespace")
        if not key:
            raise RefusedError("Invalid argument, key needed")

    def _del(self, client: Session, arguments: Arguments) -> bytes:
        stamp = int(time.time())
        if len(arguments) == 3:
            self._admin(client)
            stamp = int32(atoll(arguments[2]))
        else:
            _count(arguments, 2)
        if len(arguments[1]) > MAX_KEY_BYTES:
            raise RefusedError("Invalid key")
        _writable(client)
        if arguments[1] not in client.namespace:
            raise RefusedError("Key not found")
        if client.namespace.worm:
            raise RefusedError("Cannot delete a key when namespace is in worm mode")
        client.namespace.delete(arguments[1], stamp)
        return b"+OK\r\n"

    # -- namespaces --------------------------------------------------------------------------

    def _dbsize(self, client: Session, _: Arguments) -> bytes:
        return b":%d\r\n" % len(client.namespace)

    def _nslist(self, _: Session, __: Arguments) -> bytes:
        names = [name.encode() for name in self.store.namespaces]
        return b"*%d\r\n" % len(names) + b"".join(map(bulk, names))

    def _nsinfo(self, client: Session, arguments: Arguments) -> bytes:
        _count(arguments, 2)
        namespace = self._namespace(arguments[1])
        return bulk(namespace_description(self.store, namespace, admin=client.admin).encode())

    def _nsnew(self, client: Session, arguments: Arguments) -> bytes:
        self._admin(client)
        _count(arguments, 2)
        name = _namespace_name(arguments[1])
        if name in {".", "..", DEFAULT_NAMESPACE} or "/" in name:
            raise RefusedError("This name is not allowed")
        if name in self.store.namespaces:
            raise RefusedError("This namespace is not available")
        self.store.create(name)
        return b"+OK\r\n"

    def _nsdel(self, client: Session, arguments: Arguments) -> bytes:
        self._admin(client)
        _count(arguments, 2)
        name = _namespace_name(arguments[1])
        if name == DEFAULT_NAMESPACE:
            raise RefusedError("Cannot remove default namespace")
        if name not in self.store.namespaces:
            raise RefusedError("This namespace doesn't exists")
        if self.store.namespaces[name] is client.namespace:
            raise RefusedError("Cannot remove namespace you're currently using.")
        self.store.remove(name)
        return b"+OK\r\n"

    def _nsset(self, client: Session, arguments: Arguments) -> bytes:
        self._admin(client)
        _count(arguments, 4)
        if len(arguments[2]) > _PROPERTY_MAX_BYTES or len(arguments[3]) > 63:
            raise RefusedError("Argument too long")
        namespace = self._namespace(arguments[1])
        configure(namespace, arguments[2].decode("latin-1"), arguments[3].decode("latin-1"))
        if isinstance(namespace, DiskNamespace) and namespace.name != DEFAULT_NAMESPACE:
            namespace.save_settings()
        return b"+OK\r\n"

    def _select(self, client: Session, arguments: Arguments) -> bytes:
        if len(arguments) < 2:
            raise RefusedError("Invalid argument")
        namespace = self._namespace(arguments[1])
        client.writable = select_rights(client, namespace, arguments[2:])
        client.namespace = namespace
        return b"+OK\r\n"

    def _nsjump(self, client: Session, _: Arguments) -> bytes:
        self._admin(client)
        client.namespace.rotate()
        return b"+OK\r\n"

    def _flush(self, client: Session, _: Arguments) -> bytes:
        namespace = client.namespace
        if namespace.public or namespace.password is None:
            raise RefusedError("Flushing public namespace denied")
        namespace.reload()  # no more than that (recorded): its entries stay
        return b"+OK\r\n"

    def _reload(self, client: Session, arguments: Arguments) -> bytes:
        self._admin(client)
        _count(arguments, 2)
        self._namespace(arguments[1]).reload()
        return b"+OK\r\n"

    def _namespace(self, word: bytes) -> Namespace:
        name = _namespace_name(word)
        if name not in self.store.namespaces:
            raise RefusedError("Namespace not found")
        return self.store.namespaces[name]

    # -- system ------------------------------------------------------------------------------

    def _ping(self, _: Session, __: Arguments) -> bytes:
        return b"+PONG\r\n"

    def _time(self, _: Session, __: Arguments) -> bytes:
        seconds, rest = divmod(time.time_ns(), 10**9)
        return b"*2\r\n" + bulk(b"%d" % seconds) + bulk(b"%d" % (rest // 1000))

    def _stop(self, _: Session, __: Arguments) -> bytes:
        raise RefusedError("Unauthorized")

    def _asterisk(self, _: Session, __: Arguments) -> bytes:
        raise RefusedError("This is not a valid command")

    def _auth(self, client: Session, arguments: Arguments) -> bytes:
        if len(arguments) == 2:
            return self._auth_plain(client, arguments[1])
        if len(arguments) == 3:
            return self._auth_secure(client, arguments)
        raise RefusedError("Unexpected arguments")

    def _auth_plain(self, client: Session, password: bytes) -> bytes:
        if self.store.settings.admin is None:
            raise RefusedError("Authentication disabled")
        if not password:
            raise RefusedError("Invalid argument")
        if len(password) > _PASSWORD_MAX_BYTES:
            raise RefusedError("Password too long")
        if password != self.store.settings.admin.encode():
            raise RefusedError("Access denied")
        client.admin = True
        return b"+OK\r\n"

    def _auth_secure(self, client: Session, arguments: Arguments) -> bytes:
        if not arguments[1] or not arguments[2]:
            raise RefusedError("Invalid argument")
        if not prefix(arguments[1], "SECURE"):
            raise RefusedError("Only SECURE extra method supported")
        if prefix(arguments[2], "CHALLENGE"):
            client.nonce = secrets.token_hex(8)
            return f"+{client.nonce}\r\n".encode()
        if self.store.settings.admin is None:
            raise RefusedError("Authentication disabled")
        nonce = challenged(client, arguments[2])
        client.nonce = None
        if arguments[2] != answer(nonce, self.store.settings.admin):
            raise RefusedError("Access denied")
        client.admin = True
        return b"+OK\r\n"

    def _wait(self, client: Session, arguments: Arguments) -> bytes:
        if len(arguments) not in {2, 3}:
            raise RefusedError("Invalid arguments")
        name = self.resolve(arguments[1])
        if name is None:
            raise RefusedError("Unknown command to watch")
        timeout_ms = 5000
        if len(arguments) == 3:
            timeout_ms = atoll(arguments[2]) if len(arguments[2]) <= 16 else 0
        if not _WAIT_MIN_MS <= timeout_ms <= _WAIT_MAX_MS:
            raise RefusedError("Invalid timeout")
        client.waiting_for = name
        client.waiting_until = time.monotonic() + timeout_ms / 1000
        return b""

    def _info(self, _: Session, __: Arguments) -> bytes:
        unknown = self.requests["?"]
        counters = {
            "executed": self.requests.total() - unknown,
            "failed": unknown,
            "unauthorized": self.unauthorized,
        }
        return bulk(server_description(self.store, self.clients, counters).encode())

    def _admin(self, client: Session) -> None:
        if not client.admin:
            self.unauthorized += 1
            raise RefusedError("Permission denied")


Handler = Callable[[Commands, Session, Arguments], bytes]

# In zdbd's order: a shorter word means the first command that begins with it. Those that this
# stand-in does not answer stand here too, so that no word means something else than upstream.
_TABLE: Final[tuple[tuple[str, Handler | None], ...]] = (
    ("*", Commands._asterisk),
    ("WAIT", Commands._wait),
    ("MIRROR", None),
    ("MASTER", None),
    ("PING", Commands._ping),
    ("TIME", Commands._time),
    ("AUTH", Commands._auth),
    ("HOOKS", None),
    ("INDEX", None),
    ("DATA", None),
    ("SET", Commands._set),
    ("SETX", Commands._set),
    ("GET", Commands._get),
    ("MGET", Commands._mget),
    ("DEL", Commands._del),
    ("EXISTS", Commands._exists),
    ("CHECK", Commands._check),
    ("SCAN", Commands._scan),
    ("SCANX", Commands._scan),
    ("RSCAN", Commands._rscan),
    ("KSCAN", None),
    ("HISTORY", Commands._history),
    ("KEYCUR", Commands._keycur),
    ("LENGTH", Commands._length),
    ("KEYTIME", Commands._keytime),
    ("INFO", Commands._info),
    ("STOP", Commands._stop),
    ("DBSIZE", Commands._dbsize),
    ("NSNEW", Commands._nsnew),
    ("NSDEL", Commands._nsdel),
    ("NSLIST", Commands._nslist),
    ("NSSET", Commands._nsset),
    ("NSINFO", Commands._nsinfo),
    ("NSJUMP", Commands._nsjump),
    ("SELECT", Commands._select),
    ("RELOAD", Commands._reload),
    ("FLUSH", Commands._flush),
)
_ORDER: Final = tuple(name for name, _ in _TABLE)
_HANDLERS: Final = {name: handler for name, handler in _TABLE if handler is not None}


def _stands_for(word: bytes, name: str) -> bool:
    text, end, _ = word.upper().partition(b"\0")  # C's strings end there
    return name.encode() == text if end else name.encode().startswith(text)


def _page(namespace: Namespace, page: tuple[int, int, bytes] | None) -> bytes:
    if page is None:
        return b"-No more data\r\n"
    last, count, items = page
    return b"*2\r\n%b*%d\r\n%b" % (bulk(namespace.cursor(last)), count, items)


def _found(client: Session, keys: Sequence[bytes]) -> bytes:
    _not_frozen(client)
    replies = client.namespace.replies(keys)
    replies.insert(0, b"*%d\r\n" % len(keys))
    return b"".join(replies)


def _count(arguments: Arguments, expected: int) -> None:
    if len(arguments) != expected:
        raise RefusedError("Unexpected arguments")
    if not all(arguments):
        raise RefusedError("Invalid argument")


def _key(client: Session, arguments: Arguments) -> bytes:
    _count(arguments, 2)
    if len(arguments[1]) > MAX_KEY_BYTES:
        raise RefusedError("Invalid key")
    _not_frozen(client)
    return arguments[1]


def _not_frozen(client: Session) -> None:
    if client.namespace.locked == 2:
        raise RefusedError("Namespace is temporarily frozen (read-write disabled)")


def _writable(client: Session) -> None:
    if not client.writable:
        raise RefusedError("Namespace is in read-only mode")
    _not_frozen(client)
    if client.namespace.locked:
        raise RefusedError("Namespace is temporarily locked (read-only)")


def _namespace_name(word: bytes) -> str:
    if len(word) > _NAMESPACE_MAX_BYTES:
        raise RefusedError("Namespace too long")
    return word.decode("utf-8", "surrogateescape")
