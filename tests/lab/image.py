"""The Debian 12 image that the lab's virtual machines boot: made with mmdebstrap, kept by what it is made of.

In: the packages below, the Python packages that `requirements.lock` names, the files of `setup_files`. Out: an `Image`,
whose `disk` no machine writes to (each has an overlay of its own), with the kernel and initrd that it boots. pyk does
not belong to it: that comes as a wheel when a machine is provisioned, so a change of pyk needs no image.

Guarantees: an image is complete or not there. It needs root, and Debian's mmdebstrap, e2fsprogs and qemu-utils.
Fails with `LabError` when a tool fails; its output is in the message.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CACHE = Path(os.environ.get("PYK_LAB_CACHE") or Path.home() / ".cache" / "pyk-lab")
PACKAGES = (
    "apparmor",
    "busybox-static",
    "ca-certificates",
    "crun",
    "curl",
    "dbus",
    "etcd-client",
    "etcd-server",
    "iproute2",
    "iputils-ping",
    "kmod",
    "linux-image-cloud-amd64",
    "login",
    "nftables",
    "openssh-server",
    "openssl",
    "passwd",
    "procps",
    "python3",
    "python3-venv",
    "rsync",
    "runc",
    "sudo",
    "systemd",
    "systemd-sysv",
    "systemd-timesyncd",
    "udev",
)
DISK_MEGABYTES = 4096
_SETUP_SERVICE = """[Unit]
Description=Name and address of this machine, from the kernel's command line
DefaultDependencies=no
After=systemd-remount-fs.service
Before=network-pre.target ssh.service
ConditionKernelCommandLine=lab.name

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/local/sbin/lab-setup

[Install]
WantedBy=sysinit.target
"""
_SETUP = """#!/bin/sh
# lab.name=NAME lab.address=ADDRESS/BITS; the first interface is for the one who runs the lab, the second its segment.
set -eu
for word in $(cat /proc/cmdline); do
    case $word in
    lab.name=*) name=${word#*=}; echo "$name" >/etc/hostname; hostname "$name" ;;
    lab.address=*) address=${word#*=} ;;
    esac
done
grep -q " $name\\$" /etc/hosts || echo "127.0.1.1 $name" >>/etc/hosts
while ! [ -e /sys/class/net/eth1 ]; do sleep 0.2; done
ip link set lo up
ip address replace 10.0.2.15/24 dev eth0
ip link set eth0 up
ip address replace "$address" dev eth1
ip link set eth1 up
"""
# As Vagrant expects of a box; with "*" for a password sshd takes the user's key, with "!" it would not.
_VAGRANT_USER = 'chroot "$1" useradd --create-home --shell /bin/bash --password "*" vagrant'
_VAGRANT_HOME = 'chroot "$1" chown -R vagrant: /home/vagrant'
# The lab's machines have fixed addresses; networkd runs in a box only, which asks for it on the kernel's command line.
_DHCP = """[Match]
Name=eth0

[Network]
DHCP=ipv4
"""
# A machine of the lab has no way to an index: what pip needs to make a wheel of a checkout is there.
_PIP = """[global]
no-index = yes
no-build-isolation = off
"""
_ETCD_OFF = 'systemctl --root="$1" mask etcd.service'


class LabError(Exception):
    """A machine or its image could not be made; the message says what went wrong."""


@dataclass(frozen=True)
class Image:
    """What a machine boots."""

    disk: Path
    kernel: Path
    initrd: Path
    ssh_key: Path


def run(*command: str | Path, **options: object) -> str:
    """A command's output. Raises `LabError` with it when the command fails."""
    done = subprocess.run(  # type: ignore[call-overload]
        [str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options
    )
    if done.returncode:
        raise LabError(f"{command[0]} failed with {done.returncode}:\n{done.stdout[-3000:]}")
    return str(done.stdout)


def debian_sources() -> Path:
    """The file with this machine's sources of Debian packages."""
    for path in (Path("/etc/apt/sources.list.d/debian.sources"), Path("/etc/apt/sources.list")):
        if path.exists() and "debian" in path.read_text():
            return path
    raise LabError("neither /etc/apt/sources.list.d/debian.sources nor /etc/apt/sources.list names Debian's packages")


def fingerprint() -> str:
    """What the image is made of, in short."""
    parts = [*PACKAGES, str(DISK_MEGABYTES), _SETUP, _SETUP_SERVICE, Path(__file__).read_text()]
    parts.append((ROOT / "requirements.lock").read_text())
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def image() -> Image:
    """The image, made when there is none yet of the present inputs (about two minutes). Raises `LabError`."""
    folder = CACHE / fingerprint()
    found = Image(folder / "disk.ext4", folder / "vmlinuz", folder / "initrd.img", folder / "ssh-key")
    if not folder.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        for old in CACHE.iterdir():
            shutil.rmtree(old)
        with tempfile.TemporaryDirectory(dir=CACHE, prefix=".making-") as making:
            _make(Path(making))
            (Path(making) / "done").rename(folder)
    return found


def _make(folder: Path) -> None:
    done, wheels, files = folder / "done", folder / "wheels", folder / "files"
    for each in (done, wheels):
        each.mkdir()
    print("lab image: fetching Python packages ...", flush=True)
    _download(wheels)
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", done / "ssh-key", "-C", "lab")
    setup_files(files, (done / "ssh-key.pub").read_text())
    print("lab image: installing Debian ...", flush=True)
    root = folder / "root"
    in_root = (
        'chroot "$1" /opt/pyk/bin/pip install -q --no-index --find-links /opt/wheels -r /opt/wheels/requirements.txt'
    )
    run(
        "mmdebstrap",
        "--variant=minbase",
        f"--include={','.join(PACKAGES)}",
        f"--customize-hook=copy-in {wheels} /opt",
        f"--customize-hook={_VAGRANT_USER}",
        f"--customize-hook=tar-in {_packed(files)} /",
        f"--customize-hook={_VAGRANT_HOME}",
        '--customize-hook=chroot "$1" python3 -m venv /opt/pyk',
        f"--customize-hook={in_root}",
        '--customize-hook=rm -rf "$1"/opt/wheels "$1"/usr/share/doc "$1"/usr/share/locale',
        f"--customize-hook={_ETCD_OFF}",
        '--customize-hook=systemctl --root="$1" enable lab-setup.service serial-getty@ttyS0.service',
        "bookworm",
        root,
        debian_sources(),
    )
    (kernel,), (initrd,) = root.glob("boot/vmlinuz-*"), root.glob("boot/initrd.img-*")
    shutil.copy(kernel, done / "vmlinuz")
    shutil.copy(initrd, done / "initrd.img")
    print("lab image: writing the disk ...", flush=True)
    run("mke2fs", "-q", "-t", "ext4", "-d", root, "-L", "root", done / "disk.ext4", f"{DISK_MEGABYTES}M")
    shutil.rmtree(root)


def _download(wheels: Path) -> None:
    """Everything that pyk and its tests need, as wheels."""
    wanted = _requirements()
    (wheels / "requirements.txt").write_text("\n".join(wanted))
    pip = [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check"]
    run(*pip, "--only-binary=:all:", "-d", wheels, "-c", ROOT / "requirements.lock", *wanted)


def _requirements() -> Sequence[str]:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    project, makes_wheels = settings["project"], settings["build-system"]["requires"]
    tools = [
        name for name in project["optional-dependencies"]["dev"] if not name.startswith(("mypy", "ruff", "types-"))
    ]
    return [text.replace(" ", "") for text in (*project["dependencies"], *tools, *makes_wheels, "wheel")]


def setup_files(folder: Path, public_key: str) -> None:
    """What the image has beside its packages."""
    contents = {
        "usr/local/sbin/lab-setup": (_SETUP, 0o755),
        "etc/systemd/system/lab-setup.service": (_SETUP_SERVICE, 0o644),
        "root/.ssh/authorized_keys": (public_key, 0o600),
        "home/vagrant/.ssh/authorized_keys": (public_key, 0o600),
        "etc/sudoers.d/vagrant": ("vagrant ALL=(ALL) NOPASSWD: ALL\n", 0o440),
        "etc/systemd/network/50-lab.network": (_DHCP, 0o644),
        "etc/pip.conf": (_PIP, 0o644),
        "etc/ssh/sshd_config.d/lab.conf": ("PermitRootLogin prohibit-password\nUseDNS no\nUsePAM no\n", 0o644),
        "etc/fstab": ("/dev/vda / ext4 defaults 0 1\n", 0o644),
        "etc/udev/rules.d/80-net-setup-link.rules": ("", 0o644),  # interfaces keep the kernel's names
    }
    for name, (text, mode) in contents.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)
    for home in ("root", "home/vagrant"):
        (folder / home / ".ssh").chmod(0o700)


def _packed(files: Path) -> Path:
    archive = files.parent / "files.tar"
    run("tar", "--owner=0", "--group=0", "-C", files, "-cf", archive, ".")
    return archive
