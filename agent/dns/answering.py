"""From a question's message to the answer's: the protocol's rules around the names.

The cluster's own names and the reverse names of its addresses are answered with authority, everything else is
forwarded. While the caches are not filled the cluster's names are SERVFAIL: a name that is not known yet is no name
that does not exist. Sources: RFC 1035, 2308 (negative answers), 6891 (EDNS), 8482 (ANY).
"""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Callable, Sequence

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.reversename
import dns.rrset

from agent.dns.forward import Forwarder, Reply, seconds_to_live
from agent.dns.kept import KeptAnswers
from agent.dns.names import Answer, ClusterNames, rrsets
from pyk.reconcile.clock import Clock

_MOST_ALIASES = 8
_PAYLOAD = 1232
"""The largest datagram that passes everywhere without being taken apart (DNS flag day 2020)."""
_LEAST_PAYLOAD = 512
_QUESTIONS = 1
_SECOND = 1.0

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Answering:
    """Answers messages. `ranges` are those of the cluster's addresses, `is_ready` whether its caches are filled,
    `version` a count that every change of them raises."""

    def __init__(
        self,
        names: ClusterNames,
        forwarder: Forwarder,
        ranges: Sequence[Network],
        is_ready: Callable[[], bool],
        clock: Clock,
        version: Callable[[], int],
    ) -> None:
        self._names = names
        self._forwarder = forwarder
        self._ranges = ranges
        self._is_ready = is_ready
        self._clock = clock
        self._version = version
        self._kept = KeptAnswers(version, clock.monotonic)

    def known(self, wire: bytes) -> bytes | None:
        """The answer to a datagram that has come before and whose answer still holds."""
        return self._kept.get(wire)

    async def answer(self, wire: bytes, *, is_datagram: bool) -> bytes | None:
        """The answer to a message; None for what gets none (no header, or an answer itself)."""
        try:
            query = dns.message.from_wire(wire, ignore_trailing=True)
        except dns.exception.DNSException:
            return _malformed(wire)
        if query.flags & dns.flags.QR:
            return None
        version = self._version()
        response = dns.message.make_response(query, recursion_available=True, our_payload=_PAYLOAD)
        seconds = await self._fill(query, response)
        largest = 65535
        if is_datagram:
            largest = min(max(query.payload, _LEAST_PAYLOAD), _PAYLOAD) if query.edns >= 0 else _LEAST_PAYLOAD
        answer = response.to_wire(max_size=largest, prefer_truncation=True)
        if is_datagram and seconds and all(len(rrset) == 1 for rrset in response.answer):
            self._kept.keep(wire, answer, version, seconds)
        return answer

    async def _fill(self, query: dns.message.Message, response: dns.message.Message) -> float:
        """Fill in the response; for how many seconds it holds while nothing changes in the cluster."""
        if query.edns > 0:
            response.set_rcode(dns.rcode.BADVERS)
        elif query.opcode() != dns.opcode.QUERY:
            response.set_rcode(dns.rcode.NOTIMP)
        elif len(query.question) != _QUESTIONS:
            response.set_rcode(dns.rcode.FORMERR)
        elif query.question[0].rdclass != dns.rdataclass.IN:
            response.set_rcode(dns.rcode.REFUSED)
        else:
            question = query.question[0]
            return await self._resolve(question.name, question.rdtype, response)
        return 0.0

    async def _resolve(
        self, name: dns.name.Name, kind: dns.rdatatype.RdataType, response: dns.message.Message
    ) -> float:
        """Follow a name through the aliases that lead on within the cluster, then out of it; seconds as `_fill`."""
        if kind == dns.rdatatype.ANY:
            response.answer.extend(rrsets([(name, dns.rdatatype.HINFO, '"RFC8482" ""')]))
            return 0.0
        for _ in range(_MOST_ALIASES):
            address = self._own_address(name)
            if not self._names.is_ours(name) and address is None:
                reply = await self._forwarder.resolve(name, kind)
                self._add_reply(response, reply)
                return _SECOND if seconds_to_live(reply) > _SECOND else 0.0
            if not self._is_ready():
                response.set_rcode(dns.rcode.SERVFAIL)
                return 0.0
            answer = self._names.answer(name, kind) if address is None else self._reverse(name, kind, address)
            response.flags |= dns.flags.AA
            self._add(response, answer)
            if answer.target is None or kind == dns.rdatatype.CNAME:
                return math.inf
            name = answer.target
        return math.inf

    def _own_address(self, name: dns.name.Name) -> str | None:
        """The address that a reverse name is of, if it is one of the cluster's."""
        if not (
            name.is_subdomain(dns.reversename.ipv4_reverse_domain)
            or name.is_subdomain(dns.reversename.ipv6_reverse_domain)
        ):
            return None
        try:
            text = dns.reversename.to_address(name)
            address = ipaddress.ip_address(text)
        except (dns.exception.DNSException, ValueError):
            return None
        is_own = any(address in network for network in self._ranges)
        return text if is_own or (self._is_ready() and self._names.reverse(text)) else None

    def _reverse(self, name: dns.name.Name, kind: dns.rdatatype.RdataType, address: str) -> Answer:
        found = self._names.reverse(address)
        if not found or kind != dns.rdatatype.PTR:
            return Answer(exists=bool(found))
        return Answer(records=[(name, dns.rdatatype.PTR, each.to_text()) for each in found])

    def _add(self, response: dns.message.Message, answer: Answer) -> None:
        records = list(answer.records)
        self._clock.random.shuffle(records)  # who takes the first address should not always take the same
        response.answer.extend(rrsets(records))
        if answer.extra:
            response.additional.extend(rrsets(answer.extra))
        if not answer.records:
            if not answer.exists:
                response.set_rcode(dns.rcode.NXDOMAIN)
            response.authority.extend(rrsets([self._names.soa()]))

    def _add_reply(self, response: dns.message.Message, reply: Reply) -> None:
        if not response.answer:
            response.flags &= ~dns.flags.AA
        response.set_rcode(reply.rcode)
        response.answer.extend(reply.answer)
        response.authority.extend(each for each in reply.authority if each.rdtype == dns.rdatatype.SOA)


def _malformed(wire: bytes) -> bytes | None:
    """FORMERR for what has at least the header of a question; nothing for what may be an answer."""
    if len(wire) < 12 or wire[2] & 0x80:
        return None
    return wire[:2] + bytes([0x80 | (wire[2] & 0x79), 0x80 | dns.rcode.FORMERR]) + bytes(8)
