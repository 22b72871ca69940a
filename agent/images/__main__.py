"""`python -m agent.images`: list, import and remove the images of a folder; `pyk image` calls it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from agent.images.store import ImageStore
from agent.images.unpack import BadArchive
from pyk.reconcile.clock import RealClock

COLUMNS = "{:<48}{:<16}{:>12}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m agent.images", description=__doc__)
    parser.add_argument("--image-dir", type=Path, required=True, metavar="DIR")
    actions = parser.add_subparsers(dest="action", required=True)
    actions.add_parser("ls", help="list the images")
    adding = actions.add_parser("import", help="make an image from a root file system")
    adding.add_argument("name")
    adding.add_argument("source", type=Path, help="a folder or tar file")
    removing = actions.add_parser("rm", help="remove an image")
    removing.add_argument("name")
    arguments = parser.parse_args()
    try:
        return _run(ImageStore(arguments.image_dir, RealClock()), arguments)
    except OSError as error:
        print(f"pyk: {error.filename}: {error.strerror}", file=sys.stderr)
    except (ValueError, BadArchive) as error:  # their texts are for people
        print(f"pyk: {error}", file=sys.stderr)
    return 1


def _run(images: ImageStore, arguments: argparse.Namespace) -> int:
    match arguments.action:
        case "ls":
            print(COLUMNS.format("IMAGE", "ID", "SIZE"))
            for image in images.list():
                size = f"{image.size / 1e6:.1f}MB" if image.size else "-"
                print(COLUMNS.format(image.name, image.id.removeprefix("sha256:")[:12], size))
        case "import":
            image = images.import_rootfs(arguments.name, arguments.source)
            print(f"{image.name} imported ({image.size / 1e6:.1f}MB)")
        case "rm":
            if not images.remove(arguments.name):
                print(f"pyk: there is no image {arguments.name!r} here: 'pyk image ls' lists them", file=sys.stderr)
                return 1
            print(f"{arguments.name} removed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
