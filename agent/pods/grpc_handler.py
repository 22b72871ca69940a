"""The health check of a gRPC server (grpc.health.v1.Health), as a probe makes it: without TLS, one call.

The gRPC library is loaded with the first such probe. Source: the kubelet's `pkg/probe/grpc`, and the gRPC health
checking protocol.
"""

from __future__ import annotations

from agent.pods.outcome import Outcome

_METHOD = "/grpc.health.v1.Health/Check"
_STATUSES = {0: "UNKNOWN", 1: "SERVING", 2: "NOT_SERVING", 3: "SERVICE_UNKNOWN"}
_SERVING = 1
_USER_AGENT = "kube-probe/1.36"


async def check_health(host: str, port: int, service: str, timeout: float | None) -> Outcome:
    """Ask the server whether `service` (empty: the server as a whole) is well, within `timeout` seconds."""
    import grpc.aio

    shown = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    options = (
        ("grpc.primary_user_agent", _USER_AGENT),
        ("grpc.enable_http_proxy", 0),
        ("grpc.use_local_subchannel_pool", 1),
    )
    async with grpc.aio.insecure_channel(shown, options=options) as channel:
        check: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(_METHOD)
        try:
            answer: bytes = await check(_request(service), timeout=timeout)
        except grpc.aio.AioRpcError as error:
            return Outcome(False, _failure(error.code().name, error.details() or "", shown, timeout))
    status = _status(answer)
    if status != _SERVING:
        return Outcome(False, f'service unhealthy (responded with "{_STATUSES.get(status, str(status))}")')
    return Outcome(True, "service healthy")


def _failure(code: str, details: str, address: str, timeout: float | None) -> str:
    match code:
        case "UNIMPLEMENTED":
            text = "error: this server does not implement the grpc health protocol (grpc.health.v1.Health)"
            return f"{text}: {details}"
        case "DEADLINE_EXCEEDED":
            return f"timeout: health rpc did not complete within {timeout:g}s"
        case "UNAVAILABLE":
            return f'error: failed to connect service at "{address}": {details}'
    return f"error: health rpc probe failed: rpc error: code = {code} desc = {details}"


def _request(service: str) -> bytes:
    """A HealthCheckRequest: field 1 is the service's name."""
    name = service.encode()
    return b"\x0a" + _varint(len(name)) + name if name else b""


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _status(answer: bytes) -> int:
    """Field 1 of a HealthCheckResponse, an enumeration of small numbers; 0 when it is left out."""
    return answer[1] if len(answer) > 1 and answer[0] == 0x08 else 0
