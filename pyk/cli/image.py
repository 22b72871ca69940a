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
from pyk.lab.layout import DEFAULT_NAME, REGISTRIES_FILE

_ACTIONS = (
    ("ls", "list the images"),
    ("pull", "fetch an image from its registry"),
    ("push", "send an image to a registry"),
    ("load", "load the images of a docker-archive or an OCI layout"),
    ("import", "make an image from a folder or tar file that holds a root file system"),
    ("rm", "remove an image"),
)


def register(subparsers: Any) -> None:
    parser = subparsers.add_parser("image", help="pull, push, list, load, import or remove images of a local cluster")
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    for name, text in _ACTIONS:
        action = actions.add_parser(name, help=text)
        action.add_argument("--data-dir", type=Path, default=None, metavar="DIR", help="the cluster's folder")
        if name in ("pull", "push", "import", "rm"):
            action.add_argument("name", metavar="NAME", help="the image's name, such as app:1")
        if name in ("import", "load"):
            action.add_argument("source", type=Path, metavar="PATH", help="the folder or archive")
        if name == "load":
            action.add_argument("--name", metavar="NAME", help="the image's name, in place of that in the archive")
        if name in ("pull", "push"):
            action.add_argument("--creds", metavar="USER:PASSWORD", help="who to be at the registry")
        if name == "push":
            action.add_argument("target", nargs="?", metavar="TARGET", help="its name there; the same when left out")
        action.set_defaults(run=run, action=name)


def run(arguments: argparse.Namespace) -> int:
    folder = arguments.data_dir or default_data_dir(DEFAULT_NAME)
    images = folder / "images"
    if not images.is_dir():
        raise UserError(f"no cluster has its images in {images}: start one with 'pyk up', or say --data-dir")
    said = vars(arguments)
    words = [
        said[name]
        for name in ("name", "source", "target")
        if said.get(name) and (name, said["action"]) != ("name", "load")
    ]
    for option in ("creds", "name"):
        if said.get(option) and (option != "name" or said["action"] == "load"):
            words += [f"--{option}", said[option]]
    command = [sys.executable, "-m", "agent.images", "--image-dir", images, "--registries", folder / REGISTRIES_FILE]
    return subprocess.run(list(map(str, [*command, arguments.action, *words])), check=False).returncode
