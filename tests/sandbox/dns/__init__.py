"""The sandbox's DNS: Cloudflare's REST API (the subset for records) and a server that answers.

Both serve the same records, so that a test can set a record through the API as the program does,
and then look the name up as a client does. `DnsSandbox` runs in a test's process;
`python -m tests.sandbox.dns serve` is a process of its own.
"""

from tests.sandbox.dns.sandbox import DnsSandbox
from tests.sandbox.dns.zones import DnsRecord, DnsRefusal, Zones

__all__ = ["DnsRecord", "DnsRefusal", "DnsSandbox", "Zones"]
