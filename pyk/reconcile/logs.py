"""How every component logs: one line an event on standard error."""

from __future__ import annotations

import logging
import sys


def set_up_logging(component: str, *, verbose: bool = False) -> None:
    """Lines of time, level, component and text, from INFO on, or from DEBUG on with `verbose`."""
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.INFO,
        stream=sys.stderr,
        format=f"%(asctime)s %(levelname).1s {component} %(message)s",
        datefmt="%Y-%m-%dT%H:%M:%S",
    )
    logging.getLogger("aiohttp.access").setLevel(logging.WARNING)
