"""The master's three services over one model, on given addresses."""

from collections.abc import Sequence
from typing import Self

from tests.sandbox.services.bootstrap_api import BootstrapApi, BootstrapOptions
from tests.sandbox.services.http import Application, HttpServer, Request, Response
from tests.sandbox.services.hub_api import HubApi, HubOptions
from tests.sandbox.services.zdb import ZdbServer
from tests.sandbox.upstream.faults import Faults
from tests.sandbox.upstream.model import ModelKernels, UpstreamModel

OFFICIAL = (
    "tf-official-apps",
    "tf-dockers",
    "tf-autobuilder",
    "tf-bootable",
    "tf-zos",
    "tf-solutions",
    "tf-elevated",
    "tf-official-vms",
)


class Upstream:
    """A running master. Ports 0 are chosen; the same ones serve every address.

    hub, bootstrap, zdb: the servers on the first address. hub_faults, bootstrap_faults: what goes
    wrong there. `with Upstream(model) as upstream:` starts and stops it.
    """

    def __init__(
        self,
        model: UpstreamModel | None = None,
        addresses: Sequence[str] = ("127.0.0.1",),
        *,
        hub_port: int = 0,
        bootstrap_port: int = 0,
        zdb_port: int = 0,
        hub_options: HubOptions = HubOptions(official=OFFICIAL),  # noqa: B008 - frozen
        bootstrap_options: BootstrapOptions = BootstrapOptions(),  # noqa: B008 - frozen
    ) -> None:
        self.model = UpstreamModel() if model is None else model
        self._addresses = tuple(addresses)
        self._hub_options, self._bootstrap_options = hub_options, bootstrap_options
        self.hub_faults, self.bootstrap_faults = Faults(), Faults()
        self.hub_api = HubApi(self.model.tree, hub_options)
        self.bootstrap_api = BootstrapApi(ModelKernels(self.model), bootstrap_options)
        self._hubs: list[HttpServer] = []
        self._bootstraps: list[HttpServer] = []
        self._zdbs: list[ZdbServer] = []
        for address in addresses:
            hub = HttpServer(self._locked(self.hub_api), address, hub_port)
            bootstrap = HttpServer(self._locked(self.bootstrap_api), address, bootstrap_port)
            zdb = ZdbServer(self.model.store, address, zdb_port)
            hub.deliver = self.hub_faults.deliver
            bootstrap.deliver = self.bootstrap_faults.deliver
            hub_port, bootstrap_port, zdb_port = hub.port, bootstrap.port, zdb.port
            self._hubs.append(hub)
            self._bootstraps.append(bootstrap)
            self._zdbs.append(zdb)

    def _locked(self, application: Application) -> Application:
        def answer(request: Request) -> Response:
            with self.model.lock:
                return application(request)

        return answer

    def _servers(self) -> list[HttpServer | ZdbServer]:
        return [*self._hubs, *self._bootstraps, *self._zdbs]

    @property
    def hub(self) -> HttpServer:
        """The hub on the first address."""
        return self._hubs[0]

    @property
    def bootstrap(self) -> HttpServer:
        """The bootstrap server on the first address."""
        return self._bootstraps[0]

    @property
    def zdb(self) -> ZdbServer:
        """The 0-db on the first address."""
        return self._zdbs[0]

    def start(self) -> Self:
        """Serve everything, each server in its own thread."""
        for server in self._servers():
            server.start()
        return self

    def stop(self) -> None:
        """Switch the master off: listeners and connections are gone."""
        self.hub_faults.clear()
        self.bootstrap_faults.clear()
        for server in self._servers():
            server.stop()

    def again(self) -> "Upstream":
        """Return a stopped master on the same model, addresses and ports, to be started."""
        return Upstream(
            self.model,
            self._addresses,
            hub_port=self.hub.port,
            bootstrap_port=self.bootstrap.port,
            zdb_port=self.zdb.port,
            hub_options=self._hub_options,
            bootstrap_options=self._bootstrap_options,
        )

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()
