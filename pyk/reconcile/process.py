"""What every component's process needs: an event loop, signals, log lines, and a small page of health and metrics."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
from collections.abc import Awaitable, Callable
from contextlib import suppress

from pyk.errors import UserError
from pyk.reconcile import metrics
from pyk.reconcile.logs import set_up_logging


def run_component(component: str, main: Callable[[], Awaitable[None]], *, verbose: bool = False) -> int:
    """Run `main` until it returns or SIGTERM or SIGINT asks for the end (then it is cancelled): the exit status.

    A second signal changes nothing: it would break off the orderly end that the first one began.
    """
    import uvloop

    set_up_logging(component, verbose=verbose)
    collect_less()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_until_signalled(component, main))


def collect_less() -> None:
    """Look for cycles of garbage more rarely, and not at all in what has been imported.

    A busy component makes thousands of short-lived documents a second, which die by their reference counts. At Python's
    threshold of 700 it looked through them for cycles all the time, and every now and then through everything it holds,
    which stopped the API server for 50 ms and cost it a seventh of its processor time. What cycles there are (errors
    with their tracebacks) are found at the latest when some 10,000 more containers have come to life than died.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)


def cancel_on(loop: asyncio.AbstractEventLoop, task: asyncio.Future[None], *signals: signal.Signals) -> None:
    """Have the first of these signals cancel the task; those that follow are not heeded."""
    is_asked = False

    def cancel() -> None:
        nonlocal is_asked
        if not is_asked:
            is_asked = True
            task.cancel()

    for number in signals:
        loop.add_signal_handler(number, cancel)


async def _until_signalled(component: str, main: Callable[[], Awaitable[None]]) -> int:
    loop = asyncio.get_running_loop()
    task = asyncio.ensure_future(main())
    cancel_on(loop, task, signal.SIGTERM, signal.SIGINT)
    try:
        await task
    except asyncio.CancelledError:
        logging.getLogger(component).info("stopped")
    except UserError as error:
        logging.getLogger(component).error("%s", error)
        return 1
    except (OSError, ExceptionGroup, RuntimeError) as error:
        told = _for_people(error)
        if told is None:
            logging.getLogger(component).exception("ended by an error")
        else:
            logging.getLogger(component).error("%s", told)
        return 1
    return 0


def _for_people(error: BaseException) -> UserError | None:
    """The error of a task that is written for people, when that is what ended all."""
    if isinstance(error, UserError):
        return error
    inner = error.exceptions if isinstance(error, BaseExceptionGroup) else ()
    found = [_for_people(each) for each in inner]
    return found[0] if found and all(found) else None


async def serve_metrics(port: int, is_healthy: Callable[[], bool] = lambda: True, address: str = "127.0.0.1") -> None:
    """Serve /metrics, /healthz and /readyz in plain http on loopback until cancelled; port 0 serves nothing."""
    if port == 0:
        await asyncio.get_running_loop().create_future()
        return

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, TimeoutError):
            async with asyncio.timeout(10):
                request = await reader.readuntil(b"\r\n\r\n")
                writer.write(_answer(request.split(b" ", 2)[1].decode(errors="replace"), is_healthy))
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, address, port)
    async with server:
        await server.serve_forever()


def _answer(path: str, is_healthy: Callable[[], bool]) -> bytes:
    kind = "text/plain; version=0.0.4"
    if path.startswith("/metrics"):
        status, body = "200 OK", metrics.exposition()
    elif path in ("/healthz", "/livez", "/readyz"):
        status, body = ("200 OK", b"ok") if is_healthy() else ("503 Service Unavailable", b"not ready")
    else:
        status, body = "404 Not Found", b"there is /metrics, /healthz and /readyz"
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
    return (head + "Connection: close\r\n\r\n").encode() + body
