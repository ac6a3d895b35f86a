"""Theme devices: what of the guest is a thing of its host, and cannot come along, or only under conditions."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from segue.core.mends import Mend, MendKind
from segue.core.model import DriverKind
from segue.core.preflight.facts import Facts, Files, Kind, Part, Parts, Unseen
from segue.core.preflight.findings import Finding, Seen, Severity

_DETACH_LIBVIRT: Final = "virsh detach-device-alias {guest} {name} --live"
_DETACH_QEMU: Final = "In its monitor: device_del {name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rule:
    """What is said of a kind of device; braces stand for guest, what, name, source and destination."""

    code: str
    severity: Severity
    sentence: str
    fix: Mapping[DriverKind, str]
    detachable: bool = False


def _both(libvirt: str, qemu: str = "") -> Mapping[DriverKind, str]:
    return {DriverKind.LIBVIRT: libvirt, DriverKind.QEMU: qemu or libvirt}


_DETACH: Final = _both(_DETACH_LIBVIRT, _DETACH_QEMU)
_RULES: Final = {
    Kind.PCI: _Rule(
        code="pci-device",
        severity=Severity.BLOCKER,
        sentence="{guest} uses the PCI device {what} of {source} itself, whose state cannot be moved.",
        fix=_DETACH,
    ),
    Kind.VF: _Rule(
        code="sriov",
        severity=Severity.BLOCKER,
        sentence="{guest} has the virtual function {what} of {source} as its network card, whose state cannot be moved.",
        fix=_both(
            f"{_DETACH_LIBVIRT}; for next time give it a spare (<teaming type='transient'>), which QEMU turns to by itself",
            f"{_DETACH_QEMU}; for next time give it a spare (failover_pair_id=), which QEMU turns to by itself",
        ),
    ),
    Kind.MDEV: _Rule(
        code="mdev",
        severity=Severity.BLOCKER,
        sentence="{guest} uses the mediated device {what} of {source} (a vGPU or its like), whose state cannot be moved.",
        fix=_DETACH,
    ),
    Kind.USB: _Rule(
        code="usb-host",
        severity=Severity.BLOCKER,
        sentence="{guest} uses the USB device {what} that is plugged into {source}.",
        fix=_DETACH,
        detachable=True,
    ),
    Kind.SCSI: _Rule(
        code="scsi-host",
        severity=Severity.BLOCKER,
        sentence="{guest} uses the SCSI device {what} of {source} itself.",
        fix=_DETACH,
    ),
    Kind.LUN: _Rule(
        code="block-passthrough",
        severity=Severity.WARNING,
        sentence="The disk {name} passes SCSI commands through to {what}: reservations that the guest holds do not move with it.",
        fix=_both(
            "See that {destination} reaches the same LUN, and that persistent reservations go through qemu-pr-helper on both."
        ),
    ),
    Kind.SHMEM: _Rule(
        code="shmem",
        severity=Severity.BLOCKER,
        sentence="{guest} shares the memory {what} with others on {source}, who would stay behind.",
        fix=_both(_DETACH_LIBVIRT, f"{_DETACH_QEMU}; or start it with master=on, which takes a copy along"),
    ),
    Kind.VHOST_USER: _Rule(
        code="vhost-user",
        severity=Severity.WARNING,
        sentence="A device of {guest} is another program's on {source} ({what}), which has to listen on {destination} already.",
        fix=_both("Start the same daemon on {destination} with the same socket: 'ls -l {what}' there shows it."),
    ),
    Kind.VIRTIOFS: _Rule(
        code="virtiofs",
        severity=Severity.BLOCKER,
        sentence="{guest} has the directory {what} of {source} by virtiofs, whose daemon's state cannot be moved.",
        fix=_both("Unmount it in the guest, then " + _DETACH_LIBVIRT, "Unmount it in the guest, then " + _DETACH_QEMU),
    ),
    Kind.P9: _Rule(
        code="9p",
        severity=Severity.WARNING,
        sentence="{guest} has the directory {what} of {source} by 9p: while it is mounted in the guest, QEMU does not migrate.",
        fix=_both("Unmount it in the guest; the directory must be at the same path on {destination}."),
    ),
    Kind.VSOCK: _Rule(
        code="vsock",
        severity=Severity.WARNING,
        sentence="Connections of {guest} over vsock ({what}) break at the switchover; that CID must be free on {destination}.",
        fix=_both("Let agents in the guest reconnect; 'virsh dumpxml' or 'ps' on {destination} shows the CIDs in use."),
    ),
    Kind.TPM_HOST: _Rule(
        code="tpm-host",
        severity=Severity.BLOCKER,
        sentence="{guest} uses the TPM of {source} itself.",
        fix=_both("Give it an emulated one (swtpm) when it can be shut down; the keys in the host's TPM stay there."),
    ),
}
_DRIVES: Final = {Kind.CDROM: "cdrom-missing", Kind.FLOPPY: "floppy-missing"}
_DISPLAYS: Final = (Kind.VNC, Kind.SPICE)
_EVERYWHERE: Final = frozenset({"", "0.0.0.0", "::", "127.0.0.1", "::1", "localhost", "*"})  # noqa: S104  # read, not bound


def find(facts: Facts) -> Iterator[Finding]:
    """Everything about devices."""
    parts = facts.parts
    if isinstance(parts, Unseen):
        for code in (*(rule.code for rule in _RULES.values()), "qemu-blocks", "device-unknown", "tpm-state", *_DRIVES.values()):
            yield parts.unchecked(code)
        return
    yield from _blocked(facts, parts)
    for part in parts.devices:
        yield from _of_kind(facts, parts, part)
    yield from _unknown(facts, parts)
    yield from _with_files(facts, parts)
    for part in parts.devices:
        if part.kind in _DISPLAYS and part.password and facts.spec.driver is DriverKind.QEMU:
            yield _password(facts, part)
        elif part.kind in _DISPLAYS and part.expired:
            yield _expired(facts, part)
        elif part.kind is Kind.TPM:
            yield from _tpm(facts, part)


def _blocked(facts: Facts, parts: Parts) -> Iterator[Finding]:
    for reason in parts.blocked or ():
        yield Finding(
            code="qemu-blocks",
            severity=Severity.BLOCKER,
            sentence=f"QEMU says that {facts.guest.name} cannot be moved: {reason}.",
            seen=(Seen(host=facts.source.host, what=f"query-migrate, blocked-reasons: {reason}"),),
            fix="Take away what it names: unmount it in the guest, or unplug the device.",
        )


def _of_kind(facts: Facts, parts: Parts, part: Part) -> Iterator[Finding]:
    rule = _RULES.get(part.kind)
    if rule is None or part.failover:
        return
    if part.kind is Kind.PCI and parts.blocked == ():  # QEMU was asked: this device's driver can move its state (VFIO, QEMU 8.2)
        return
    words = {
        "guest": facts.guest.name,
        "what": part.what,
        "name": part.name,
        "source": facts.source.host,
        "destination": facts.destination.host,
    }
    mend = _unplugged(part) if rule.detachable else None
    yield Finding(
        code=rule.code,
        severity=rule.severity,
        sentence=rule.sentence.format(**words),
        seen=(Seen(host=facts.source.host, what=f"{part.kind} {part.name}: {part.what}"),),
        fix=rule.fix[_spoken(facts)].format(**words),
        mend=mend,
    )


def _unplugged(part: Part) -> Mend:
    return Mend(
        kind=MendKind.DETACH,
        target=part.name,
        words=f"unplug the {part.kind} {part.name} ({part.what})",
        again=f"plug in what stands for the {part.kind} {part.what} there",
    )


def _spoken(facts: Facts) -> DriverKind:
    return DriverKind.LIBVIRT if facts.spec.driver is DriverKind.LIBVIRT else DriverKind.QEMU


def _tpm(facts: Facts, part: Part) -> Iterator[Finding]:
    """Libvirt starts swtpm on the destination and moves its state; of a bare QEMU nobody does (docs/specs/tpm.rst, migration)."""
    if facts.spec.driver is DriverKind.LIBVIRT:
        return
    yield Finding(
        code="tpm-state",
        severity=Severity.WARNING,
        sentence=f"{facts.guest.name} has an emulated TPM: a swtpm has to listen on {facts.destination.host} beforehand.",
        seen=(Seen(host=facts.source.host, what=f"TPM {part.name}: {part.what}"),),
        fix="Start 'swtpm socket' there with the same socket; its state comes with the guest's memory.",
    )


def _unknown(facts: Facts, parts: Parts) -> Iterator[Finding]:
    if parts.types is None:
        return
    if isinstance(facts.offer, Unseen):
        yield facts.offer.unchecked("device-unknown")
        return
    if facts.offer.types is not None and (unknown := sorted(parts.types - facts.offer.types)):
        yield Finding(
            code="device-unknown",
            severity=Severity.BLOCKER,
            sentence=f"QEMU on {facts.destination.host} does not know {', '.join(unknown)}, which {facts.guest.name} has.",
            seen=(Seen(host=facts.destination.host, what=f"qom-list-types of {parts.emulator} has no {', '.join(unknown)}"),),
            fix=f"Install the QEMU packages with these devices on {facts.destination.host}, or unplug them.",
        )


def _password(facts: Facts, part: Part) -> Finding:
    return Finding(
        code="display-password",
        severity=Severity.WARNING,
        sentence=f"The password of the {part.kind} was told to the running QEMU only: after the move nobody can log in.",
        seen=(Seen(host=facts.source.host, what=f"{part.kind} {part.what}"),),
        fix=f"After the move, in its monitor: set_password {part.name} …; or start it with password-secret=.",
    )


def _expired(facts: Facts, part: Part) -> Finding:
    """Libvirt sends the password along with its end, and both are the same afterwards."""
    name, kind = facts.guest.name, part.kind
    return Finding(
        code="display-password",
        severity=Severity.NOTE,
        sentence=f"The password of the {kind} of {name} has expired: nobody can log in to it, and nobody can after the move.",
        seen=(Seen(host=facts.source.host, what=f"passwdValidTo {part.valid_until} (UTC)"),),
        fix=f"virsh update-device {name} FILE --live, FILE with <graphics type='{part.name}' passwd=… passwdValidTo=…>.",
    )


def _with_files(facts: Facts, parts: Parts) -> Iterator[Finding]:
    """What depends on what the destination shows: media, ports, directories."""
    checks: tuple[tuple[tuple[Kind, ...], str, Callable[[Facts, Part, Files], Iterator[Finding]]], ...] = (
        ((Kind.CDROM,), "cdrom-missing", _medium),
        ((Kind.FLOPPY,), "floppy-missing", _medium),
        (_DISPLAYS, "display-port", _display),
        ((Kind.OUTPUT,), "output-directory", _output),
    )
    for kinds, code, check in checks:
        for part in (one for one in parts.devices if one.kind in kinds):
            if isinstance(facts.files, Unseen):
                yield facts.files.unchecked(code)
                break
            yield from check(facts, part, facts.files)


def _medium(facts: Facts, part: Part, files: Files) -> Iterator[Finding]:
    there = facts.destination.host
    seen = files.there.get(part.path)
    if seen is not None and seen.may_read:
        return
    drive = f"{part.kind} {part.name}"
    what = "no such file" if seen is None else f"there, and QEMU's user may not read it ({seen.owner})"
    yield Finding(
        code=_DRIVES[part.kind],
        severity=Severity.BLOCKER,
        sentence=f"The {drive} holds {part.path}, which {there} {'does not have' if seen is None else 'does not let QEMU read'}.",
        seen=(Seen(host=facts.source.host, what=f"{drive} holds {part.path}"), Seen(host=there, what=f"{part.path}: {what}")),
        fix={
            DriverKind.LIBVIRT: f"virsh change-media {facts.guest.name} {part.name} --eject --live --force",
            DriverKind.QEMU: f"In its monitor: eject -f {part.name}",
        }[_spoken(facts)],
        mend=Mend(
            kind=MendKind.EJECT,
            target=part.name,
            words=f"take {part.path} out of the {drive}",
            again=f"put {part.path} into the {drive} again, once {there} has it",
        ),
    )


def _display(facts: Facts, part: Part, files: Files) -> Iterator[Finding]:
    there = facts.destination.host
    taken = [port for port in part.ports if port in files.listening]
    if taken and facts.spec.driver is DriverKind.LIBVIRT:  # a bare one gives way to the next free port by itself
        yield Finding(
            code="display-port",
            severity=Severity.BLOCKER,
            sentence=f"The {part.kind} of {facts.guest.name} is bound to port {taken[0]}, which is taken on {there}.",
            seen=(Seen(host=there, what=f"somebody listens on TCP port {taken[0]}"),),
            fix=f"End who listens there ('ss -ltnp sport = :{taken[0]}' on {there}), or give the guest autoport='yes'.",
        )
    if files.addresses and part.listens not in _EVERYWHERE and part.listens not in files.addresses and part.listens[:1].isdigit():
        yield Finding(
            code="display-address",
            severity=Severity.BLOCKER,
            sentence=f"The {part.kind} of {facts.guest.name} listens on {part.listens}, an address that {there} does not have.",
            seen=(Seen(host=there, what=f"addresses {', '.join(sorted(files.addresses))}"),),
            fix={
                DriverKind.LIBVIRT: f"Let it listen on another address there: '--set graphics.{part.name}=0.0.0.0'.",
                DriverKind.QEMU: "Let it listen on another address there: '--set vnc=ADDRESS:NUMBER'.",
            }[_spoken(facts)],
        )


def _output(facts: Facts, part: Part, files: Files) -> Iterator[Finding]:
    directory, there = posixpath.dirname(part.path) or ".", facts.destination.host
    if directory in files.there:
        return
    yield Finding(
        code="output-directory",
        severity=Severity.BLOCKER,
        sentence=f"{facts.guest.name} writes to {part.path} ({part.name}), and {there} has no directory for it.",
        seen=(Seen(host=there, what=f"{directory}: no such directory"),),
        fix=f"On {there}: install -d {directory}",
        mend=Mend(
            kind=MendKind.MAKE_DIRECTORY,
            target=directory,
            words=f"make the directory {directory} on {there}",
            like=files.here[directory].owner if directory in files.here else "",
        ),
    )
