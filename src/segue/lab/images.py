"""Hosts of another release: a Debian tree that systemd boots, as a machine does that somebody has just installed.

A tree is built once, by debootstrap, from the archive that this machine's apt reads, and kept below /var/cache/segue-lab. It
is Debian's minimum, systemd and sshd; apt's own cache in it holds the packages that a host of guests needs, so that they can be
installed in a lab that reaches no network. A host is that tree with a layer of its own over it (overlayfs, mounted where nobody
else sees it), booted by systemd-nspawn in the host's network namespace. Both live in that namespace, and end as every process of
a lab does.

What may live here: building trees, what a host's own layer holds, and the words that boot it.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final

from segue.core.hostfacts import PACKAGES
from segue.errors import CommandFailed, LabError
from segue.lab import kernel
from segue.lab.layout import GUEST_LOGS, GUEST_RUN, NETNS_DIR, Layout, address
from segue.lab.shell import run

CACHE: Final = Path("/var/cache/segue-lab")
RELEASES: Final = ("bookworm", "trixie")
"""Debian 12 (libvirt 9.0, QEMU 7.2) and 13 (libvirt 11.3, QEMU 10.0)."""
DAEMONS: Final = ("systemd", "sshd")
NEEDED: Final = {"debootstrap": "debootstrap", "systemd-nspawn": "systemd-container"}
INCLUDED: Final = ("dbus", "iproute2", "iputils-ping", "openssh-server", "systemd-sysv")
"""What a tree has beside Debian's minimum: what makes it boot, and reachable. Of libvirt and QEMU it has nothing."""
BUILD_S: Final = 1200.0
"""A tree took 60 to 90 s and 330 MB."""
BOOT_S: Final = 90.0
"""Two at once took 6 s."""
_PAUSE_S: Final = 0.1

_BOOT: Final = """
set -eu
pipe=$1 tree=$2 layer=$3; shift 3
mount -t overlay overlay -o "lowerdir=$tree,upperdir=$layer/upper,workdir=$layer/work" "$layer/root"
echo ready >&"$pipe"
exec {pipe}>&-
SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1 exec systemd-nspawn "$@"
"""


def check(images: Iterable[str]) -> None:
    """Refuse what cannot be built here.

    Raises:
        LabError: no such release, or a program is missing.
    """
    for image in images:
        if image not in RELEASES:
            raise LabError(f"There is no image {image!r}.", hint=f"There are {', '.join(RELEASES)}.")
    if missing := sorted({package for program, package in NEEDED.items() if not shutil.which(program)}):
        raise LabError(f"Programs are missing: {', '.join(missing)}.", hint=f"apt-get install {' '.join(missing)}.")


def tree(image: str) -> Path:
    """Where the tree of a release is, built or not; another list of packages makes it another tree."""
    content = hashlib.sha256("\n".join((*INCLUDED, *PACKAGES)).encode()).hexdigest()[:8]
    return CACHE / f"{image}-{content}"


async def build(image: str, say: Callable[[str], None]) -> None:
    """Build a tree if there is none; who comes second waits for the first.

    Raises:
        LabError: debootstrap or apt failed, or this machine's apt reads no Debian archive; nothing half-built is left.
    """
    CACHE.mkdir(mode=0o755, parents=True, exist_ok=True)
    lock = os.open(CACHE / f"{image}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        await asyncio.to_thread(fcntl.flock, lock, fcntl.LOCK_EX)
        if not tree(image).is_dir():
            say(f"{image}: building its tree, once: some minutes")
            await _build(image)
    finally:
        os.close(lock)


async def _build(image: str) -> None:
    new = tree(image).with_suffix(".new")
    await _remove(new)
    environment = ["env", "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C.UTF-8"]
    download = ["apt-get", "-qq", "-y", "--no-install-recommends", "--download-only", "install", *PACKAGES]
    try:
        words = [f"--include={','.join(INCLUDED)}", "--variant=minbase", image, str(new), await _archive()]
        await run([*environment, "debootstrap", *words], deadline_s=BUILD_S)
        for archive in (new / "var/cache/apt/archives").glob("*.deb"):  # those of the tree itself are installed
            archive.unlink()
        await run([*environment, "chroot", str(new), *download], deadline_s=BUILD_S)
        new.rename(tree(image))
    except CommandFailed as error:
        message = f"The tree of {image} cannot be built: {error.message}"
        raise LabError(message, hint="'apt-get update' must work on this machine.") from error
    finally:
        await _remove(new)


async def _remove(path: Path) -> None:
    if path.exists():
        await run(["rm", "-rf", "--one-file-system", "--", str(path)], deadline_s=60)


async def _archive() -> str:
    """The Debian archive that this machine's apt reads."""
    wanted = ["Created-By: Packages", "Component: main", "Label: Debian"]
    said = await run(["apt-get", "indextargets", "--format", "$(SITE)", *wanted], check=False)
    if not (sites := said.stdout.split()):
        raise LabError("This machine's apt reads no Debian archive.", hint="Trees are built on Debian, after 'apt-get update'.")
    return sites[0]


def write_layer(layout: Layout, host: str, hosts: Iterable[str]) -> None:
    """Write what makes a tree this host: its names, its keys, and places for the lab's guests to write to."""
    layer = layout.host_root(host)
    for place in ("upper", "work", "root"):
        (layer / place).mkdir(parents=True)
    etc, ssh = layer / "upper/etc", layer / "upper/etc/ssh"
    login = layer / "upper/root/.ssh"
    linger = (
        layer / "upper/var/lib/systemd/linger"
    )  # a login that meets root's service manager on its way out waits for it: a minute
    for own in (ssh, login, linger, layer / f"upper{GUEST_LOGS}"):
        own.mkdir(parents=True)
    login.parent.chmod(0o700)
    login.chmod(0o700)
    (layer / f"upper{GUEST_LOGS}").chmod(0o1777)  # QEMU runs as a user of its own there
    (linger / "root").touch()
    names = "".join(f"{address(other)} {other}\n" for other in hosts)
    (etc / "hosts").write_text(f"127.0.0.1 localhost\n{names}", encoding="utf-8")
    (etc / "hostname").write_text(f"{host}\n", encoding="utf-8")
    (etc / "resolv.conf").write_text("", encoding="utf-8")
    (etc / "machine-id").write_text(f"{uuid.uuid4().hex}\n", encoding="utf-8")
    keys = layout.client_key.parent
    for suffix in ("", ".pub"):
        shutil.copy2(keys / f"{host}{suffix}", ssh / f"ssh_host_ed25519_key{suffix}")
    for source, name in ((layout.client_key.with_suffix(".pub"), "authorized_keys"), (layout.client_key, "id_ed25519")):
        shutil.copy2(source, login / name)
    shutil.copy2(layout.known_hosts, login / "known_hosts")  # root of each may log in to each other, as in the other labs


def boot_argv(layout: Layout, host: str, image: str, says: int) -> list[str]:
    """Words that, executed, become the host; its init is the child of what they become.

    It may do all that a machine may with its own network and mounts. The export of storage, and the guest's kernel, are there at
    the paths that they have on this machine.
    """
    layer, netns = layout.host_root(host), NETNS_DIR / layout.netns(host)
    nspawn = ["-q", f"--directory={layer / 'root'}", f"--machine=segue-{layout.name}-{host}", f"--hostname={host}"]
    nspawn += ["--register=no", "--keep-unit", f"--network-namespace-path={netns}", "--capability=all", "--link-journal=no"]
    nspawn += ["--resolv-conf=off", "--timezone=off", "--console=passive", "--bind=/dev/net/tun", f"--bind={layout.export}"]
    nspawn += [f"--tmpfs={GUEST_RUN}:mode=1777", f"--bind-ro={kernel.directory()}", "--boot"]
    unshare = ["nsenter", f"--net={netns}", "unshare", "--mount", "--propagation", "slave", "--"]
    return [*unshare, "bash", "-c", _BOOT, host, str(says), str(tree(image)), str(layer), *nspawn]


async def wait_booted(host: str, enter: Sequence[str]) -> None:
    """Wait until systemd has started all that it starts. A unit that fails is no reason to wait, nor to give up.

    Raises:
        LabError: it has not by the deadline.
    """
    ask = ["systemctl", "is-system-running", "--wait"]
    said = ""
    try:
        async with asyncio.timeout(BOOT_S):
            while said not in ("running", "degraded"):  # no event before its bus is there: then --wait waits
                await asyncio.sleep(_PAUSE_S)
                said = (await run(ask, inside=enter, check=False, host=host, deadline_s=BOOT_S)).stdout.strip()
    except TimeoutError:
        raise LabError(f"{host} did not boot within {BOOT_S:g} s: systemd says {said or 'nothing'}.") from None
