"""One HTTP GET, as probes and lifecycle hooks make it from the node to a container.

Certificates are not checked. Redirects are followed within the same host; one that leads elsewhere ends a probe well,
but with a warning. Of a body at most 10 KiB are read. Source: the kubelet's `pkg/probe/http` and
`lifecycle/handlers.go`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from agent.pods.outcome import MOST_OUTPUT, Outcome, Target, port_of, refused

if TYPE_CHECKING:
    import aiohttp
    from multidict import CIMultiDict
    from yarl import URL

PROBE, HOOK = "kube-probe/1.36", "kube-lifecycle/1.36"
_FOLLOWED = (301, 302, 303, 307, 308)
_MOST_REDIRECTS = 10
_AUTOMATIC = ("Accept", "Accept-Encoding", "User-Agent")


class HttpHandler:
    """Makes GET requests. `close` ends the session."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def get(self, action: Mapping[str, Any], target: Target, agent: str) -> Outcome:
        """Make the request of an `httpGet` action as `agent`, a probe or a hook. Raises `UnknownPort`."""
        import aiohttp
        from yarl import URL

        if self._session is None:
            self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=False, force_close=True, limit=0))
        url = url_of(action, target)
        try:
            outcome = await self._follow(URL(url), _headers(action, agent))
            return Outcome(True, outcome.output) if agent == HOOK else outcome  # a hook has only to be heard
        except (aiohttp.ClientError, OSError, ValueError) as error:
            if isinstance(error, aiohttp.ClientSSLError) and agent == HOOK:
                plain = {**action, "scheme": "HTTP"}  # as the kubelet does for servers that speak no TLS
                return await self.get(plain, target, agent)
            if isinstance(error, aiohttp.ClientConnectorError) and not isinstance(error, aiohttp.ClientSSLError):
                return Outcome(False, f'Get "{url}": {refused(error.host, error.port or 0, error.os_error)}')
            said = "EOF" if isinstance(error, aiohttp.ServerDisconnectedError) else str(error)
            return Outcome(False, f'Get "{url}": {said}')

    async def _follow(self, url: URL, headers: CIMultiDict[str]) -> Outcome:
        assert self._session is not None
        first = url.host
        for _ in range(_MOST_REDIRECTS):
            async with self._session.get(
                url, headers=headers, allow_redirects=False, skip_auto_headers=_AUTOMATIC
            ) as response:
                body = (await response.content.read(MOST_OUTPUT)).decode(errors="replace")
                status, location = response.status, response.headers.get("Location", "")
            if status in _FOLLOWED and location and (onward := url.join(type(url)(location))).host == first:
                url = onward
                continue
            if 300 <= status < 400:
                return Outcome(True, body, warning=f"Probe terminated redirects, Response body: {body}")
            if 200 <= status < 300:
                return Outcome(True, body)
            return Outcome(False, f"HTTP probe failed with statuscode: {status}")
        return Outcome(False, f'Get "{url}": stopped after {_MOST_REDIRECTS} redirects')


def url_of(action: Mapping[str, Any], target: Target) -> str:
    """The URL of an `httpGet` action. Raises `UnknownPort`."""
    host = action.get("host") or target.address
    shown = f"[{host}]" if ":" in host else host
    path = action.get("path") or "/"
    base = f"{(action.get('scheme') or 'HTTP').lower()}://{shown}:{port_of(target.container, action['port'])}"
    return base + (path if path.startswith("/") else f"/{path}")


def _headers(action: Mapping[str, Any], agent: str) -> CIMultiDict[str]:
    """The headers asked for, with ours where they are not; one that is asked for empty is not sent."""
    from multidict import CIMultiDict

    headers: CIMultiDict[str] = CIMultiDict()
    for header in action.get("httpHeaders") or ():
        headers.add(header["name"], header["value"])
    headers.setdefault("User-Agent", agent)
    headers.setdefault("Accept", "*/*")
    for name in ("User-Agent", "Accept"):
        if not headers[name]:
            del headers[name]
    return headers
