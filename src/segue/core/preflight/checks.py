"""The table of checks: each code, what it is about, and what is said where nothing was found.

A code is stable: scripts name it (``--accept``, ``--json``), and docs/runbook/findings has a page of that name. What could not be
checked has the code of its check, with severity ``unchecked``. What may live here: that table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from segue.core.model import DriverKind
from segue.core.preflight.findings import Theme


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that is looked at.

    Attributes:
        code: its name.
        theme: what it belongs to.
        fine: what ``segue check -v`` says where nothing was found, a clause.
        only: the kind of guests that it is for; ``None``: all.
        never: why nobody may be let past it, a clause; empty where an operator may.
    """

    code: str
    theme: Theme
    fine: str
    only: DriverKind | None = None
    never: str = ""

    @property
    def acceptable(self) -> bool:
        """An operator may force a migration past it."""
        return not self.never


TWO_COPIES: Final = "two copies of the guest could run"
IMPOSSIBLE: Final = "there is no way to do it"
_LIBVIRT: Final = DriverKind.LIBVIRT
_QEMU: Final = DriverKind.QEMU

_ALL: Final = (
    # guest
    Check(code="asked", theme=Theme.GUEST, fine="what was asked for can be done", never=IMPOSSIBLE),
    Check(code="same-host", theme=Theme.GUEST, fine="source and destination are two hosts", never=TWO_COPIES),
    Check(code="destination-taken", theme=Theme.GUEST, fine="the destination has no guest of that name", never=TWO_COPIES),
    Check(code="guest-not-running", theme=Theme.GUEST, fine="it runs"),
    Check(code="guest-busy", theme=Theme.GUEST, fine="no other job or migration of it is under way", never=TWO_COPIES),
    Check(code="io-error", theme=Theme.GUEST, fine="no disk has stopped it with an error"),
    Check(code="unsupported", theme=Theme.GUEST, fine="nothing in it is known to be impossible to move"),
    Check(code="snapshots", theme=Theme.GUEST, fine="it has no snapshots that would stay behind"),
    Check(code="checkpoints", theme=Theme.GUEST, fine="it has no checkpoints that would stay behind", only=_LIBVIRT),
    Check(code="managed-save", theme=Theme.GUEST, fine="no saved state of it is kept", only=_LIBVIRT),
    Check(code="autostart", theme=Theme.GUEST, fine="it does not start with its host", only=_LIBVIRT),
    # devices
    Check(code="qemu-blocks", theme=Theme.DEVICES, fine="QEMU names no reason against it", only=_QEMU),
    Check(code="pci-device", theme=Theme.DEVICES, fine="it has no PCI device of its host"),
    Check(code="sriov", theme=Theme.DEVICES, fine="it has no virtual function of its host"),
    Check(code="mdev", theme=Theme.DEVICES, fine="it has no mediated device of its host"),
    Check(code="usb-host", theme=Theme.DEVICES, fine="it has no USB device of its host"),
    Check(code="scsi-host", theme=Theme.DEVICES, fine="it has no SCSI device of its host"),
    Check(code="block-passthrough", theme=Theme.DEVICES, fine="no disk passes SCSI commands through"),
    Check(code="shmem", theme=Theme.DEVICES, fine="it shares no memory with others"),
    Check(code="vhost-user", theme=Theme.DEVICES, fine="no device of it is another program's"),
    Check(code="virtiofs", theme=Theme.DEVICES, fine="it has no virtiofs share"),
    Check(code="9p", theme=Theme.DEVICES, fine="it has no 9p share"),
    Check(code="vsock", theme=Theme.DEVICES, fine="it has no vsock"),
    Check(code="tpm-host", theme=Theme.DEVICES, fine="it does not use its host's TPM"),
    Check(code="tpm-state", theme=Theme.DEVICES, fine="it has no TPM whose daemon somebody would have to start", only=_QEMU),
    Check(code="cdrom-missing", theme=Theme.DEVICES, fine="no CD-ROM drive holds what only the source has"),
    Check(code="floppy-missing", theme=Theme.DEVICES, fine="no floppy drive holds what only the source has"),
    Check(code="display-port", theme=Theme.DEVICES, fine="no display is bound to a port that is taken there", only=_LIBVIRT),
    Check(code="display-address", theme=Theme.DEVICES, fine="no display listens on an address that is not there"),
    Check(code="display-password", theme=Theme.DEVICES, fine="no display has a password that would be lost or has expired"),
    Check(code="output-directory", theme=Theme.DEVICES, fine="every file that it writes to has its directory there"),
    Check(code="device-unknown", theme=Theme.DEVICES, fine="the destination's QEMU knows all its devices", only=_QEMU),
    # CPU and machine
    Check(code="emulator", theme=Theme.CPU, fine="the destination has its emulator"),
    Check(code="cpu-features", theme=Theme.CPU, fine="the destination has every feature of its live CPU"),
    Check(code="cpu-passthrough", theme=Theme.CPU, fine="its CPU is a named model"),
    Check(code="tsc", theme=Theme.CPU, fine="its clock can be kept elsewhere"),
    Check(code="machine-type", theme=Theme.CPU, fine="the destination knows its machine type"),
    Check(code="qemu-older", theme=Theme.CPU, fine="it does not go to an older QEMU"),
    Check(code="accelerator", theme=Theme.CPU, fine="the destination has its accelerator"),
    Check(code="emulation", theme=Theme.CPU, fine="all that it writes while it is moved comes along"),
    Check(code="first-look", theme=Theme.CPU, fine="its clients need not wait while it begins"),
    Check(code="cpu-pinning", theme=Theme.CPU, fine="the destination has the CPUs that it is pinned to"),
    # memory
    Check(code="memory", theme=Theme.MEMORY, fine="the destination has the memory for it"),
    Check(code="huge-pages", theme=Theme.MEMORY, fine="the destination has the huge pages for it"),
    Check(code="memory-lock", theme=Theme.MEMORY, fine="what has to be locked of its memory may be locked there"),
    Check(code="numa", theme=Theme.MEMORY, fine="the destination has the NUMA nodes that it is bound to"),
    # disks
    Check(code="disk-missing", theme=Theme.DISKS, fine="every disk is at the same path there"),
    Check(code="disk-other", theme=Theme.DISKS, fine="every disk is proven to be the same on both hosts"),
    Check(code="disk-unproven", theme=Theme.DISKS, fine="every disk could be compared"),
    Check(
        code="disk-unshared",
        theme=Theme.DISKS,
        fine="libvirt takes the storage of every disk for shared, where it has to",
        only=_LIBVIRT,
    ),
    Check(code="disk-rights", theme=Theme.DISKS, fine="QEMU's user may use every disk there"),
    Check(code="disk-backing", theme=Theme.DISKS, fine="every file under a disk is there"),
    Check(code="disk-used", theme=Theme.DISKS, fine="no other QEMU there has one of its disks", never=TWO_COPIES),
    Check(code="disk-locked", theme=Theme.DISKS, fine="no process there holds a lock on one of its disks", never=TWO_COPIES),
    Check(code="disk-cache", theme=Theme.DISKS, fine="every cache mode is safe with these versions"),
    Check(code="disk-format", theme=Theme.DISKS, fine="every disk that is to be copied can be", only=_QEMU),
    Check(code="disk-taken", theme=Theme.DISKS, fine="nothing lies where a disk is to be copied to", only=_QEMU),
    Check(code="disk-space", theme=Theme.DISKS, fine="there is room for the disks that are to be copied"),
    Check(code="file-missing", theme=Theme.DISKS, fine="the destination has the kernel and firmware that it starts with"),
    # network
    Check(code="bridge-missing", theme=Theme.NETWORK, fine="every bridge and device that it is plugged into is there"),
    Check(
        code="network-missing",
        theme=Theme.NETWORK,
        fine="every libvirt network that it is plugged into is active there",
        only=_LIBVIRT,
    ),
    Check(code="bridge-mtu", theme=Theme.NETWORK, fine="its bridges have the same MTU on both hosts"),
    Check(code="bridge-vlan", theme=Theme.NETWORK, fine="its bridges lead to the same VLANs on both hosts"),
    Check(code="mac-taken", theme=Theme.NETWORK, fine="no other QEMU there has one of its MAC addresses", never=TWO_COPIES),
    Check(code="names", theme=Theme.NETWORK, fine="both hosts take the destination's names for the same addresses"),
    Check(code="data-port", theme=Theme.NETWORK, fine="nothing stands between the source and the migration port"),
    Check(code="path-mtu", theme=Theme.NETWORK, fine="large packets arrive, and both links have the same MTU"),
    Check(code="link-speed", theme=Theme.NETWORK, fine="the link is fast enough for a guest"),
    # control
    Check(code="user-rights", theme=Theme.CONTROL, fine="whoever is logged in there may run the guest as it runs here"),
    Check(code="p2p", theme=Theme.CONTROL, fine="the source's daemon reaches the destination's, where it has to"),
    Check(code="tls-handshake", theme=Theme.CONTROL, fine="both QEMUs take each other's certificates, where they have to"),
    Check(code="clock", theme=Theme.CONTROL, fine="the clocks of both hosts are in step"),
    Check(code="keepalive", theme=Theme.CONTROL, fine="both daemons notice when the other is gone", only=_LIBVIRT),
    Check(code="capabilities", theme=Theme.CONTROL, fine="both QEMUs know all that was asked for", only=_QEMU),
    Check(code="postcopy-rights", theme=Theme.CONTROL, fine="QEMU may do post-copy there, where that is asked for"),
    # promise
    Check(code="promise", theme=Theme.PROMISE, fine="what is promised can be kept, as far as a forecast tells"),
)

CHECKS: Final[Mapping[str, Check]] = {check.code: check for check in _ALL}
