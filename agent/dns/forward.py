"""Other names: asked of the name servers of the node, and kept for as long as their answers allow.

Upstreams are those of the node's resolv.conf, read again when it changes, in their order; a server that does not
answer in `TRY_SECONDS` gives way to the next. A truncated answer is fetched over TCP. Equal questions under way are
asked once. Bounds: `MOST_KEPT` answers are kept (the oldest goes first), `MOST_ASKED` questions are under way at once,
and whoever comes then is told SERVFAIL.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import dns.asyncquery
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset

from pyk.reconcile.clock import Clock

TRY_SECONDS = 2.0
MOST_KEPT = 10_000
MOST_ASKED = 256
LONGEST_SECONDS = 3600.0
LONGEST_NEGATIVE_SECONDS = 30.0
_PAYLOAD = 1232

log = logging.getLogger(__name__)

Question = tuple[dns.name.Name, dns.rdatatype.RdataType]


@dataclass(frozen=True, slots=True)
class Reply:
    """What an upstream said, with the times to live that were left then."""

    rcode: dns.rcode.Rcode
    answer: Sequence[dns.rrset.RRset] = ()
    authority: Sequence[dns.rrset.RRset] = ()


FAILED = Reply(dns.rcode.SERVFAIL)


@dataclass(frozen=True, slots=True)
class _Kept:
    reply: Reply
    since: float
    until: float


def upstreams_in(content: str, own: Sequence[str]) -> list[str]:
    """The name servers of a resolv.conf, but for our own addresses: asking those would go in circles."""
    lines = (line.split() for line in content.splitlines())
    found = [words[1] for words in lines if len(words) > 1 and words[0] == "nameserver"]
    return [address for address in dict.fromkeys(found) if address not in own]


def seconds_to_live(reply: Reply) -> float:
    """How long an answer may be kept: no record of it longer than it says; a negative one as its SOA says."""
    if reply.rcode not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
        return 0.0
    if reply.answer and reply.rcode == dns.rcode.NOERROR:
        return min(LONGEST_SECONDS, *(float(rrset.ttl) for rrset in reply.answer))
    soa = [rrset for rrset in reply.authority if rrset.rdtype == dns.rdatatype.SOA]
    return min((min(float(each.ttl), float(each[0].minimum), LONGEST_NEGATIVE_SECONDS) for each in soa), default=0.0)


def aged(reply: Reply, seconds: float) -> Reply:
    """The reply as it is after some time: its times to live have gone down."""

    def older(rrset: dns.rrset.RRset) -> dns.rrset.RRset:
        return dns.rrset.from_rdata_list(rrset.name, max(0, rrset.ttl - int(seconds)), list(rrset))

    return Reply(reply.rcode, [older(each) for each in reply.answer], [older(each) for each in reply.authority])


class Forwarder:
    """Asks upstreams, and remembers."""

    def __init__(self, resolv_conf: Path, own: Sequence[str], clock: Clock, *, port: int = 53) -> None:
        self._resolv_conf = resolv_conf
        self._own = tuple(own)
        self._clock = clock
        self._port = port
        self._kept: OrderedDict[Question, _Kept] = OrderedDict()
        self._asked: dict[Question, asyncio.Task[Reply]] = {}
        self._upstreams: tuple[float, list[str]] = (-1.0, [])

    async def resolve(self, name: dns.name.Name, kind: dns.rdatatype.RdataType) -> Reply:
        """The reply to a question; `FAILED` when nobody gave one."""
        question = name, kind
        now = self._clock.monotonic()
        kept = self._kept.get(question)
        if kept is not None:
            if now < kept.until:
                return aged(kept.reply, now - kept.since)
            del self._kept[question]
        task = self._asked.get(question)
        if task is None:
            if len(self._asked) >= MOST_ASKED:
                return FAILED
            task = self._asked[question] = asyncio.create_task(self._ask(question))
            task.add_done_callback(lambda done: self._asked.pop(question, None))
        return await asyncio.shield(task)

    async def close(self) -> None:
        """End what is under way."""
        tasks = list(self._asked.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _ask(self, question: Question) -> Reply:
        for upstream in self._servers():
            query = dns.message.make_query(*question, use_edns=0, payload=_PAYLOAD)
            try:
                message, _ = await dns.asyncquery.udp_with_fallback(
                    query, upstream, timeout=TRY_SECONDS, port=self._port, ignore_unexpected=True
                )
            except (dns.exception.DNSException, OSError, EOFError) as error:
                log.debug("%s did not answer for %s: %s", upstream, question[0], error)
                continue
            reply = Reply(message.rcode(), message.answer, message.authority)
            if reply.rcode in (dns.rcode.SERVFAIL, dns.rcode.REFUSED):
                continue
            self._keep(question, reply)
            return reply
        return FAILED

    def _keep(self, question: Question, reply: Reply) -> None:
        seconds = seconds_to_live(reply)
        if seconds > 0:
            now = self._clock.monotonic()
            self._kept[question] = _Kept(reply, now, now + seconds)
            while len(self._kept) > MOST_KEPT:
                self._kept.popitem(last=False)

    def _servers(self) -> list[str]:
        try:
            changed = self._resolv_conf.stat().st_mtime
            if changed != self._upstreams[0]:
                self._upstreams = changed, upstreams_in(self._resolv_conf.read_text(), self._own)
        except OSError as error:
            log.warning("the node's name servers are not known: %s", error)
        return self._upstreams[1]
