"""The last leg of a proxied request: from this node to the address of a pod on it.

Only the node reaches its pods for sure, so the API server sends requests for `pods/NAME/proxy` here. What the pod
answers goes back as it is; that it cannot be reached is said with 503 and the header `UNREACHABLE`, which tells the
API server that the words are ours.
"""

from __future__ import annotations

import ssl

import aiohttp
from aiohttp import web
from yarl import URL

from pyk.api.objects import Object
from pyk.relay import is_websocket, relay_http, relay_websocket

UNREACHABLE = "X-Pod-Unreachable"
CONNECT_SECONDS = 10.0


class PodProxy:
    """Requests to pods of this node."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Close idle connections to pods."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def relay(self, request: web.Request, pod: Object) -> web.StreamResponse:
        """Relay a request for `/podProxy/NAMESPACE/POD/SCHEME/PORT/PATH` to the pod's PORT and PATH."""
        scheme, port = request.match_info["scheme"], request.match_info["port"]
        if scheme not in ("http", "https") or not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
            raise web.HTTPBadRequest(text=f"no pod has {scheme} on port {port}")
        address = (pod.get("status") or {}).get("podIP")
        if not address:
            raise _unreachable("the pod has no address yet")
        host = f"[{address}]" if ":" in address else address
        path = request.rel_url.raw_path.split("/", 6)[6]
        query = f"?{request.rel_url.raw_query_string}" if request.rel_url.raw_query_string else ""
        url = URL(f"{scheme}://{host}:{port}/{path}{query}", encoded=True)
        try:
            if is_websocket(request):
                return await relay_websocket(self._client(), request, url)
            return await relay_http(self._client(), request, url)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            if request.transport is None or request.transport.is_closing():
                raise
            raise _unreachable(str(error) or "i/o timeout") from None

    def _client(self) -> aiohttp.ClientSession:
        if self._session is None:
            # As kube-apiserver: a pod's certificate is nobody's that the cluster knows.
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(ssl=context, limit=0),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS),
                auto_decompress=False,
            )
        return self._session


def _unreachable(reason: str) -> web.HTTPServiceUnavailable:
    return web.HTTPServiceUnavailable(text=f"error trying to reach service: {reason}", headers={UNREACHABLE: "true"})
