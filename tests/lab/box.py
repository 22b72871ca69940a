"""A Vagrant box for libvirt, made of the lab's image: what `vagrant up` boots when the lab tries it for real.

In: an `Image`. Out: one file for `vagrant box add`: the disk, and beside it the kernel and initrd with which libvirt
boots it, for the disk has no boot loader, and the key that its user `vagrant` takes.

Guarantees: the image is only read. Fails with `LabError`.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

from tests.lab.image import DISK_MEGABYTES, Image, run

_METADATA = {"provider": "libvirt", "format": "qcow2", "virtual_size": -(-DISK_MEGABYTES // 1024)}
# The same words as the lab's own machines have, and networkd, which asks libvirt's name server for an address.
_KERNEL = "root=/dev/vda rw console=ttyS0 panic=-1 no_timer_check net.ifnames=0 systemd.wants=systemd-networkd.service"
_VAGRANTFILE = f"""# What the box needs: a kernel from outside, and patience, for the processor may be emulated.
Vagrant.configure("2") do |config|
  config.vm.boot_timeout = 900
  config.ssh.private_key_path = File.join(__dir__, "ssh-key")
  config.ssh.insert_key = false
  config.vm.provider "libvirt" do |libvirt|
    libvirt.kernel = File.join(__dir__, "vmlinuz")
    libvirt.initrd = File.join(__dir__, "initrd.img")
    libvirt.cmd_line = "{_KERNEL}"
    libvirt.cpu_mode = "maximum"
    libvirt.graphics_type = "none"
    libvirt.disk_driver :cache => "unsafe"
  end
end
"""


def make_box(image: Image, target: Path) -> Path:
    """Write the box to a file, and return that. Raises `LabError`."""
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".box-") as made:
        folder = Path(made)
        run("qemu-img", "convert", "-O", "qcow2", image.disk, folder / "box.img")
        for file in (image.kernel, image.initrd, image.ssh_key):
            shutil.copy(file, folder / file.name)
        (folder / "metadata.json").write_text(json.dumps(_METADATA))
        (folder / "Vagrantfile").write_text(_VAGRANTFILE)
        run("tar", "-C", folder, "-cf", target, *sorted(path.name for path in folder.iterdir()))
    return target
