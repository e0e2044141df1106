"""The API and the DNS server together, started and stopped as one."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from pathlib import Path
from socketserver import BaseServer
from typing import Self

from tests.sandbox.dns.api import PREFIX, ApiServer
from tests.sandbox.dns.responder import Responder
from tests.sandbox.dns.zones import Zones, zone_id

LOOPBACK = "127.0.0.1"
_STOP_SECONDS = 10


class DnsSandbox:
    """A DNS provider on loopback; a context manager.

    Ports that are 0 are chosen when it starts. With a state file the zones and records outlive
    it.
    """

    def __init__(
        self,
        zones: Iterable[str] = (),
        *,
        token: str,
        address: str = LOOPBACK,
        api_port: int = 0,
        dns_port: int = 0,
        state_file: Path | None = None,
    ) -> None:
        self.zones = Zones(zones, state_file)
        self.token = token
        self._address = address
        self._ports = (api_port, dns_port)
        self._api: ApiServer | None = None
        self._responder: Responder | None = None
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Listen on both ports and serve in the background."""
        api_port, dns_port = self._ports
        self._api = ApiServer((self._address, api_port), self.zones, self.token)
        self._responder = Responder((self._address, dns_port), self.zones)
        for server in (self._api, self._responder):
            self._serve(server)

    def _serve(self, server: BaseServer) -> None:
        thread = threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True)
        thread.start()
        self._threads.append(thread)

    def stop(self) -> None:
        """Stop serving and free the ports."""
        for server in (self._api, self._responder):
            if server is not None:
                server.shutdown()
                server.server_close()
        for thread in self._threads:
            thread.join(_STOP_SECONDS)
        self._api = self._responder = None
        self._threads.clear()

    @property
    def api_url(self) -> str:
        """The address for the cloudflare provider's `baseUrl`."""
        if self._api is None:
            raise RuntimeError("the DNS sandbox is not started; call start() first")
        return f"http://{self._address}:{self._api.server_address[1]}{PREFIX}"

    @property
    def dns_endpoint(self) -> tuple[str, int]:
        """The address and UDP port of the DNS server."""
        if self._responder is None:
            raise RuntimeError("the DNS sandbox is not started; call start() first")
        return self._address, int(self._responder.server_address[1])

    @property
    def requests_log(self) -> list[str]:
        """Method and path of every API request so far."""
        return [] if self._api is None else list(self._api.requests_log)

    def zone_id(self, name: str) -> str:
        """Return the id of a zone, for a stack's config."""
        return zone_id(name)
