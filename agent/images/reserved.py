"""The reserved images, made from the host: `pyk.local/host`, `pyk.local/busybox` and `pyk.local/pyk`. Any tag means the
same.

`host` is a template root directory over which the runtime binds the host's /usr read-only, so that a pod runs the
programs that the node has, without any registry. `busybox` is a root of one file, Debian's busybox-static, with a
symbolic link for each applet. `pyk` is `host` with the Python packages of this installation below /opt/pyk: those parts
of pyk that run as pods (`python -m ingress`) so are of the same version as their node. All are made once per image
directory, in a temporary directory that an atomic rename puts in place, so that several agents sharing the directory
get along; their names contain a digest of what they are made from, so a changed host gives a new image and containers
keep the root that they began with.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable
from pathlib import Path

from agent.images.image import Image, ImageConfig, ImageUnavailable

HOST = "pyk.local/host"
BUSYBOX = "pyk.local/busybox"
PYK = "pyk.local/pyk"
RESERVED = (HOST, BUSYBOX, PYK)
BUSYBOX_PROGRAMS = ("/bin/busybox", "/usr/bin/busybox")

_LAYOUT_VERSION = "1"
_DIRECTORIES = (
    "dev", "etc", "home", "mnt", "opt", "proc", "root", "run", "srv", "sys", "tmp", "usr",
    "var", "var/cache", "var/lib", "var/log", "var/tmp",
)  # fmt: skip
_MODES = {"tmp": 0o1777, "var/tmp": 0o1777, "root": 0o700}
_TOP_LEVEL = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
# What programs in /usr look for in /etc; nothing that is secret or says what the node is.
_SHOWN_IN_ETC = (
    "alternatives", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "ssl/certs", "ssl/openssl.cnf",
    "ca-certificates.conf", "mime.types", "protocols", "services", "terminfo", "python3", "python3.11", "perl",
)  # fmt: skip
_IN_PODS = ("pyk", "ingress")
_PACKAGES = "/opt/pyk"
_PASSWD = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
_GROUP = "root:x:0:\ntty:x:5:\nnogroup:x:65534:\n"
_NSSWITCH = "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\nservices: files\nprotocols: files\n"


def reserved_image(repository: str, image_dir: Path, tag: str = "latest", host_root: Path = Path("/")) -> Image | None:
    """The reserved image of that repository, made if need be; None when the name is not reserved. Blocks.

    Raises `ImageUnavailable` when the host does not have what it is made from.
    """
    if repository == HOST:
        return _host_image(image_dir, tag, host_root)
    if repository == BUSYBOX:
        return _busybox_image(image_dir, tag, host_root)
    if repository == PYK:
        return _pyk_image(image_dir, tag, host_root)
    return None


def _host_image(image_dir: Path, tag: str, host_root: Path) -> Image:
    binds, links = _host_binds(host_root)
    return _bound_image(image_dir, f"{HOST}:{tag}", host_root, binds, links, ImageConfig(command=("/bin/sh",)))


def _pyk_image(image_dir: Path, tag: str, host_root: Path) -> Image:
    """The packages are bound one by one: what else lies beside them in a checkout is not the pods' concern."""
    binds, links = _host_binds(host_root)
    for package in _IN_PODS:
        found = importlib.util.find_spec(package)
        if found is None or not found.submodule_search_locations:
            raise ImageUnavailable(f"{PYK} is made from pyk's own packages, and {package} is not installed here")
        binds[f"{_PACKAGES}/{package}"] = str(Path(found.submodule_search_locations[0]).resolve())
    libraries = dict.fromkeys(Path(sysconfig.get_path(kind)).resolve() for kind in ("purelib", "platlib"))
    places = [_PACKAGES]
    for number, library in enumerate(libraries):
        places.append(f"{_PACKAGES}/libraries-{number}")
        binds[places[-1]] = str(library)
    environment = [*ImageConfig().environment, f"PYTHONPATH={':'.join(places)}", "PYTHONDONTWRITEBYTECODE=1"]
    python, prefix = Path(sys.executable).resolve(), Path(sys.base_prefix).resolve()
    if not python.is_relative_to("/usr"):  # it may lie where only root can look, below /root for instance
        binds[f"{_PACKAGES}/python"] = str(prefix)
        python = Path(_PACKAGES, "python", python.relative_to(prefix))
        environment.append(f"LD_LIBRARY_PATH={_PACKAGES}/python/lib")
    config = ImageConfig(entrypoint=(str(python),), environment=tuple(environment))
    return _bound_image(image_dir, f"{PYK}:{tag}", host_root, binds, links, config)


def _host_binds(host_root: Path) -> tuple[dict[str, str], dict[str, str]]:
    """What of the host is shown, by the place that it has inside; and the links at the top."""
    links = {name: os.readlink(host_root / name) for name in _TOP_LEVEL if (host_root / name).is_symlink()}
    binds = {"/usr": str(host_root / "usr")}
    for name in _TOP_LEVEL:
        if name not in links and (host_root / name).is_dir():
            binds[f"/{name}"] = str(host_root / name)
    for name in _SHOWN_IN_ETC:
        if (host_root / "etc" / name).exists():
            binds[f"/etc/{name}"] = str((host_root / "etc" / name).resolve())
    return binds, links


def _bound_image(
    image_dir: Path, name: str, host_root: Path, binds: dict[str, str], links: dict[str, str], config: ImageConfig
) -> Image:
    """An image of mount points alone."""
    kinds = {inside: Path(outside).is_dir() for inside, outside in binds.items()}
    digest = _digest(_LAYOUT_VERSION, repr(sorted(links.items())), repr(sorted(kinds.items())))

    def fill(root: Path) -> None:
        _make_layout(root)
        for link, target in links.items():
            (root / link).symlink_to(target)
        for inside, is_directory in kinds.items():
            point = root / inside.lstrip("/")
            point.parent.mkdir(parents=True, exist_ok=True)
            if is_directory:
                point.mkdir(exist_ok=True)
            else:
                point.touch()
        zone = host_root / "etc/localtime"
        if zone.is_symlink():
            (root / "etc/localtime").symlink_to(os.readlink(zone))

    root = _made_once(image_dir, f"host-{digest[:16]}", fill)
    return Image(name, f"sha256:{digest}", config, (root,), read_only_binds=binds)


def _busybox_image(image_dir: Path, tag: str, host_root: Path) -> Image:
    program = next((p for name in BUSYBOX_PROGRAMS if (p := host_root / name.lstrip("/")).is_file()), None)
    if program is None:
        raise ImageUnavailable(
            f"{BUSYBOX} is made from the host's busybox, which is not there: install Debian's busybox-static"
        )
    content = program.read_bytes()
    if b"ld-linux" in content[:4096]:
        raise ImageUnavailable(f"{program} is linked dynamically: install Debian's busybox-static")
    digest = _digest(_LAYOUT_VERSION, hashlib.sha256(content).hexdigest())

    def fill(root: Path) -> None:
        _make_layout(root)
        for name in ("bin", "sbin", "usr/bin", "usr/sbin"):
            (root / name).mkdir()
        shutil.copyfile(program, root / "bin/busybox")
        (root / "bin/busybox").chmod(0o755)
        listed = subprocess.run([program, "--list-full"], capture_output=True, check=True, text=True, timeout=30)
        for applet in listed.stdout.split():
            link = root / applet
            if link.parent.is_dir() and not link.exists():
                link.symlink_to("/bin/busybox")

    root = _made_once(image_dir, f"busybox-{digest[:16]}", fill)
    return Image(f"{BUSYBOX}:{tag}", f"sha256:{digest}", ImageConfig(command=("sh",)), (root,), size=len(content))


def _make_layout(root: Path) -> None:
    for name in _DIRECTORIES:
        (root / name).mkdir()
        (root / name).chmod(_MODES.get(name, 0o755))
    (root / "var/run").symlink_to("/run")
    for name, text in (("passwd", _PASSWD), ("group", _GROUP), ("nsswitch.conf", _NSSWITCH)):
        (root / "etc" / name).write_text(text)
        (root / "etc" / name).chmod(0o644)


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _made_once(image_dir: Path, name: str, fill: Callable[[Path], None]) -> Path:
    """The directory `reserved/NAME`, filled by whoever comes first."""
    parent = image_dir / "reserved"
    final = parent / name
    if final.is_dir():
        return final
    parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=parent))
    try:
        made.chmod(0o755)
        fill(made)
        os.rename(made, final)
    except FileExistsError:
        shutil.rmtree(made)
    except OSError:
        shutil.rmtree(made)
        if not final.is_dir():  # not merely another agent that was quicker (ENOTEMPTY)
            raise
    return final
