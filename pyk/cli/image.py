"""`pyk image`: the images that the nodes of a local cluster share.

The images belong to the node's side, so this only starts its own command on the cluster's image folder.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

from pyk.errors import UserError
from pyk.lab.defaults import default_data_dir
from pyk.lab.layout import DEFAULT_NAME


def register(subparsers: Any) -> None:
    parser = subparsers.add_parser("image", help="list, import or remove the images of a local cluster")
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    for name, text in (
        ("ls", "list the images"),
        ("import", "make an image from a folder or tar file that holds a root file system"),
        ("rm", "remove an image"),
    ):
        action = actions.add_parser(name, help=text)
        action.add_argument("--data-dir", type=Path, default=None, metavar="DIR", help="the cluster's folder")
        if name != "ls":
            action.add_argument("name", metavar="NAME", help="the image's name, such as app:1")
        if name == "import":
            action.add_argument("source", type=Path, metavar="PATH", help="the folder or tar file")
        action.set_defaults(run=run, action=name)


def run(arguments: argparse.Namespace) -> int:
    images = (arguments.data_dir or default_data_dir(DEFAULT_NAME)) / "images"
    if not images.is_dir():
        raise UserError(f"no cluster has its images in {images}: start one with 'pyk up', or say --data-dir")
    words = [getattr(arguments, name) for name in ("name", "source") if hasattr(arguments, name)]
    command = [sys.executable, "-m", "agent.images", "--image-dir", images, arguments.action, *words]
    return subprocess.run(list(map(str, command)), check=False).returncode
