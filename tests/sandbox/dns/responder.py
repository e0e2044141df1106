"""A DNS server over UDP that answers from the zones, wildcards (RFC 4592) included.

A proxied record answers with its own content: the sandbox has no proxy to point at.
"""

from __future__ import annotations

import logging
import socketserver
from typing import Final

import dns.exception
import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset

from tests.sandbox.dns.zones import AUTOMATIC_TTL, DnsRecord, Zones

_AUTOMATIC_SECONDS: Final = 300
_ALIAS_CHAIN: Final = 8
_log = logging.getLogger(__name__)


class Responder(socketserver.ThreadingUDPServer):
    """The server on one address."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, address: tuple[str, int], zones: Zones) -> None:
        super().__init__(address, _Handler)
        self.zones = zones


class _Handler(socketserver.BaseRequestHandler):
    server: Responder

    def handle(self) -> None:
        """Answer one datagram; what is no query gets no answer."""
        datagram, sock = self.request
        try:
            query = dns.message.from_wire(datagram)
        except dns.exception.DNSException:
            _log.debug("not a DNS message from %s", self.client_address)
            return
        sock.sendto(respond(query, self.server.zones).to_wire(), self.client_address)


def respond(query: dns.message.Message, zones: Zones) -> dns.message.Message:
    """Return the answer to a query."""
    response = dns.message.make_response(query)
    response.flags |= dns.flags.AA
    if not query.question:
        response.set_rcode(dns.rcode.FORMERR)
        return response
    question = query.question[0]
    name = question.name.to_text(omit_final_dot=True).lower()
    zone = _zone_of(name, zones)
    if zone is None:
        response.set_rcode(dns.rcode.REFUSED)
        return response
    kind = dns.rdatatype.to_text(question.rdtype)
    records, exists = _answers(name, kind, zones.records(zone))
    for owner, record in records:
        ttl = _AUTOMATIC_SECONDS if record.ttl == AUTOMATIC_TTL else record.ttl
        response.answer.append(
            dns.rrset.from_text(f"{owner}.", ttl, "IN", record.type, _rdata(record))
        )
    if not exists:
        response.set_rcode(dns.rcode.NXDOMAIN)
    return response


def _zone_of(name: str, zones: Zones) -> str | None:
    fitting = [
        (len(zone), identity)
        for identity, zone in zones.zones().items()
        if name == zone or name.endswith(f".{zone}")
    ]
    return max(fitting)[1] if fitting else None


def _answers(
    name: str, kind: str, records: list[DnsRecord]
) -> tuple[list[tuple[str, DnsRecord]], bool]:
    """Return the records that answer, each with the name it answers for, and if that name is."""
    answers: list[tuple[str, DnsRecord]] = []
    exists = True
    for hop in range(_ALIAS_CHAIN):
        owned, found = _owned(name, records)
        exists = found if hop == 0 else exists
        answers += [(name, record) for record in owned if record.type == kind]
        alias = next((record for record in owned if record.type == "CNAME"), None)
        if alias is None or kind == "CNAME":
            break
        answers.append((name, alias))
        name = alias.content.rstrip(".").lower()
    return answers, exists


def _owned(name: str, records: list[DnsRecord]) -> tuple[list[DnsRecord], bool]:
    """Return the records of a name, or those of the wildcard at its closest encloser."""
    owned = [record for record in records if record.name == name]
    names = {record.name for record in records}
    if owned or any(other.endswith(f".{name}") for other in names):
        return owned, True
    encloser = name
    while "." in encloser:
        encloser = encloser.split(".", 1)[1]
        wildcard = [record for record in records if record.name == f"*.{encloser}"]
        if wildcard:
            return wildcard, True
        if encloser in names or any(other.endswith(f".{encloser}") for other in names):
            return [], False
    return [], False


def _rdata(record: DnsRecord) -> str:
    if record.type == "CNAME":
        return f"{record.content.rstrip('.')}."
    if record.type == "MX":
        return f"{record.priority or 0} {record.content.rstrip('.')}."
    if record.type == "TXT" and not record.content.startswith('"'):
        return f'"{record.content}"'
    return record.content
