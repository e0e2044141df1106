"""The REST API: zones and their DNS records, as Cloudflare's version 4 serves them."""

from __future__ import annotations

import hmac
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

from typing_extensions import override

from tests.sandbox.dns.zones import DnsRefusal, Zones

PREFIX: Final = "/client/v4"
_BODY_BYTES: Final = 1 << 20
_PER_PAGE: Final = 100


@dataclass(frozen=True)
class _Request:
    """What an endpoint is given."""

    zones: Zones
    query: Mapping[str, str]
    body: Mapping[str, Any]
    zone: str
    record: str


def _zone_json(identity: str, name: str) -> dict[str, Any]:
    return {"id": identity, "name": name, "status": "active", "paused": False, "type": "full"}


def _list_zones(request: _Request) -> list[dict[str, Any]]:
    wanted = request.query.get("name")
    zones = request.zones.zones().items()
    return [_zone_json(i, name) for i, name in sorted(zones) if wanted in (None, name)]


def _get_zone(request: _Request) -> dict[str, Any]:
    request.zones.records(request.zone)
    return _zone_json(request.zone, request.zones.zones()[request.zone])


def _list_records(request: _Request) -> list[dict[str, Any]]:
    shown = [record.as_json() for record in request.zones.records(request.zone)]
    for key, wanted in request.query.items():
        field, _, how = key.partition(".")
        if field in ("type", "name", "content", "comment"):
            matches = _MATCHES[how]
            shown = [record for record in shown if matches(record[field] or "", wanted)]
    return shown


_MATCHES: Final[Mapping[str, Callable[[str, str], bool]]] = {
    "": str.__eq__,
    "exact": str.__eq__,
    "contains": str.__contains__,
    "startswith": str.startswith,
    "endswith": str.endswith,
}


def _create_record(request: _Request) -> dict[str, Any]:
    return request.zones.create(request.zone, request.body).as_json()


def _get_record(request: _Request) -> dict[str, Any]:
    return request.zones.record(request.zone, request.record).as_json()


def _put_record(request: _Request) -> dict[str, Any]:
    return request.zones.update(request.zone, request.record, request.body).as_json()


def _patch_record(request: _Request) -> dict[str, Any]:
    return request.zones.patch(request.zone, request.record, request.body).as_json()


def _delete_record(request: _Request) -> dict[str, Any]:
    request.zones.delete(request.zone, request.record)
    return {"id": request.record}


def _verify_token(_request: _Request) -> dict[str, Any]:
    return {"id": "0" * 32, "status": "active"}


_ZONE = r"/zones/(?P<zone>[^/]+)"
_RECORDS = _ZONE + r"/dns_records"
_RECORD = _RECORDS + r"/(?P<record>[^/]+)"
_ENDPOINTS: Final[tuple[tuple[str, str, Callable[[_Request], Any]], ...]] = (
    ("GET", r"/user/tokens/verify", _verify_token),
    ("GET", r"/zones", _list_zones),
    ("GET", _ZONE, _get_zone),
    ("GET", _RECORDS, _list_records),
    ("POST", _RECORDS, _create_record),
    ("GET", _RECORD, _get_record),
    ("PUT", _RECORD, _put_record),
    ("PATCH", _RECORD, _patch_record),
    ("DELETE", _RECORD, _delete_record),
)


def _envelope(result: Any, query: Mapping[str, str]) -> dict[str, Any]:
    answer = {"result": result, "success": True, "errors": [], "messages": []}
    if isinstance(result, list):
        page, per_page = int(query.get("page", 1)), int(query.get("per_page", _PER_PAGE))
        shown = result[(page - 1) * per_page : page * per_page]
        answer["result"] = shown
        answer["result_info"] = {
            "page": page,
            "per_page": per_page,
            "count": len(shown),
            "total_count": len(result),
            "total_pages": max(1, -(-len(result) // per_page)),
        }
    return answer


def _refusal(refusal: DnsRefusal) -> dict[str, Any]:
    error: dict[str, Any] = {"code": refusal.code, "message": refusal.message}
    if refusal.validation:
        error = {"code": 1004, "message": "DNS Validation Error", "error_chain": [error]}
    return {"result": None, "success": False, "errors": [error], "messages": []}


class ApiServer(ThreadingHTTPServer):
    """The API on one address; `requests_log` keeps method and path of every request."""

    daemon_threads = True

    def __init__(self, address: tuple[str, int], zones: Zones, token: str) -> None:
        super().__init__(address, _Handler)
        self.zones = zones
        self.token = token
        self.requests_log: list[str] = []


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: ApiServer

    @override
    def log_message(self, format: str, *args: Any) -> None:
        """Keep the request, print nothing."""
        self.server.requests_log.append(f"{self.command} {self.path}")

    def _serve(self) -> None:
        try:
            status, answer = 200, self._answer()
        except DnsRefusal as refusal:
            status, answer = refusal.status, _refusal(refusal)
        payload = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _serve  # noqa: N815

    def _answer(self) -> dict[str, Any]:
        body = self._body()
        self._authorize()
        parts = urlsplit(self.path)
        path = parts.path.removeprefix(PREFIX).rstrip("/")
        query = dict(parse_qsl(parts.query))
        for method, pattern, endpoint in _ENDPOINTS:
            match = re.fullmatch(pattern, path)
            if method == self.command and match and parts.path.startswith(PREFIX):
                groups = match.groupdict()
                request = _Request(
                    self.server.zones,
                    query,
                    body,
                    groups.get("zone", ""),
                    groups.get("record", ""),
                )
                return _envelope(endpoint(request), query)
        raise DnsRefusal(404, 7000, "No route for that URI")

    def _authorize(self) -> None:
        given = self.headers.get("Authorization")
        if given is None:
            raise DnsRefusal(400, 9106, "Missing X-Auth-Key, X-Auth-Email or Authorization headers")
        if not given.startswith("Bearer "):
            raise DnsRefusal(400, 6003, "Invalid request headers")
        wanted = self.server.token.encode()
        if not hmac.compare_digest(given.removeprefix("Bearer ").encode(), wanted):
            raise DnsRefusal(403, 9109, "Invalid access token")

    def _body(self) -> Mapping[str, Any]:
        length = int(self.headers.get("Content-Length") or 0)
        if length > _BODY_BYTES:
            raise DnsRefusal(413, 9207, "Request body is too large")
        raw = self.rfile.read(length)
        if not raw:
            return {}
        try:
            body = json.loads(raw)
        except ValueError:
            raise DnsRefusal(400, 9207, "Request body is invalid JSON.") from None
        if not isinstance(body, dict):
            raise DnsRefusal(400, 9207, "Request body must be an object.")
        return body
