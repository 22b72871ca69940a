"""`python -m agent.images`: pull, push, list, load, import and remove the images of a folder; `pyk image` calls it."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agent.images.archives import load
from agent.images.image import Image, ImageUnavailable
from agent.images.manifest import BadImage
from agent.images.pull import Puller, Step, Watcher
from agent.images.push import push
from agent.images.reference import parse_reference
from agent.images.registries import Credential, RegistriesFile
from agent.images.store import ImageStore
from agent.images.unpack import BadArchive
from pyk.reconcile.clock import RealClock

COLUMNS = "{:<56}{:<16}{:>12}"


def main() -> int:
    arguments = _parser().parse_args()
    clock = RealClock()
    try:
        return asyncio.run(_run(ImageStore(arguments.image_dir, clock), clock, arguments))
    except OSError as error:
        print(f"pyk: {error.filename}: {error.strerror}", file=sys.stderr)
    except (ValueError, BadArchive, ImageUnavailable) as error:  # their texts are for people
        print(f"pyk: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        return 130
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m agent.images", description=__doc__)
    parser.add_argument("--image-dir", type=Path, required=True, metavar="DIR")
    parser.add_argument("--registries", type=Path, metavar="FILE", help="mirrors, certificates and credentials")
    actions = parser.add_subparsers(dest="action", required=True)
    actions.add_parser("ls", help="list the images")
    pulling = actions.add_parser("pull", help="fetch an image from its registry")
    pushing = actions.add_parser("push", help="send an image to a registry")
    loading = actions.add_parser("load", help="load the images of an archive or OCI layout")
    adding = actions.add_parser("import", help="make an image from a root file system")
    removing = actions.add_parser("rm", help="remove an image")
    for action in (pulling, pushing, adding, removing):
        action.add_argument("name")
    for action in (pulling, pushing):
        action.add_argument("--creds", metavar="USER:PASSWORD", help="who to be at the registry")
    pushing.add_argument("target", nargs="?", help="the name that it gets there; the same when left out")
    loading.add_argument("source", type=Path, help="a docker-archive, an OCI archive or layout")
    loading.add_argument("--name", default="", help="the name of the image, in place of that in the archive")
    adding.add_argument("source", type=Path, help="a folder or tar file")
    return parser


async def _run(images: ImageStore, clock: RealClock, arguments: argparse.Namespace) -> int:
    registries = RegistriesFile(arguments.registries)
    match arguments.action:
        case "ls":
            print(COLUMNS.format("IMAGE", "ID", "SIZE"))
            for image in images.all():
                print(COLUMNS.format(image.name, image.id.removeprefix("sha256:")[:12], _size(image) or "-"))
        case "pull":
            with _progress() as watcher:
                source = Puller(images, registries, clock, watcher=watcher)
                image = await source.pull(parse_reference(arguments.name).name, given=_credential(arguments.creds))
            print(f"{image.name} pulled ({_size(image)}, {image.digest})")
        case "push":
            target = arguments.target or arguments.name
            if images.get(arguments.name) is None:
                return _unknown(arguments.name)
            with _progress() as watcher:
                digest = await push(
                    images,
                    arguments.name,
                    target,
                    registries,
                    clock,
                    credential=_credential(arguments.creds),
                    watcher=watcher,
                )
            print(f"{parse_reference(target).name} pushed ({digest})")
        case "load":
            for image in await asyncio.to_thread(load, images, arguments.source, arguments.name):
                print(f"{image.name} loaded ({_size(image)})")
        case "import":
            image = await asyncio.to_thread(images.import_rootfs, arguments.name, arguments.source)
            print(f"{image.name} imported ({_size(image)})")
        case "rm":
            if not images.remove(arguments.name):
                return _unknown(arguments.name)
            print(f"{arguments.name} removed")
    return 0


def _unknown(name: str) -> int:
    print(f"pyk: there is no image {name!r} here: 'pyk image ls' lists them", file=sys.stderr)
    return 1


def _size(image: Image) -> str:
    return f"{image.size / 1e6:.1f}MB" if image.size else ""


def _credential(text: str | None) -> Credential | None:
    if text is None:
        return None
    name, colon, password = text.partition(":")
    if not colon:
        raise BadImage("--creds: write USER:PASSWORD")
    return Credential(name, password)


@contextmanager
def _progress() -> Iterator[Watcher]:
    """A bar a layer on a terminal, a line a layer elsewhere."""
    if not sys.stderr.isatty():
        said: set[tuple[str, str]] = set()

        def tell(step: Step) -> None:
            if step.what in ("exists", "done") and (step.digest, step.what) not in said:
                said.add((step.digest, step.what))
                print(f"{step.digest[7:19]}: {step.what}", file=sys.stderr)

        yield tell
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True)) as shown:
        tasks: dict[str, TaskID] = {}

        def draw(step: Step) -> None:
            if step.digest not in tasks:
                tasks[step.digest] = shown.add_task(step.digest[7:19], total=step.total)
            text = f"{step.digest[7:19]} {step.what:<11}"
            shown.update(tasks[step.digest], description=text, completed=step.here, total=step.total)

        yield draw


if __name__ == "__main__":
    sys.exit(main())
