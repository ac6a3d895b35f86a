"""Theme control: whether those who carry the migration out reach and believe each other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from segue.core.connectivity import State, Way, judge
from segue.core.model import Control, DriverKind, Transport
from segue.core.preflight.facts import Facts, Path, Unseen
from segue.core.preflight.findings import Finding, Seen, Severity
from segue.core.preflight.network import unseen

_CODES: Final = ("p2p", "tls-handshake", "clock", "keepalive", "postcopy-rights")


def find(facts: Facts) -> Iterator[Finding]:
    """Everything about who talks to whom."""
    path, spec = facts.path, facts.spec
    if isinstance(path, Unseen):
        yield from unseen(path, tuple(code for code in _CODES if _is_needed(facts, code)))
        return
    cells = {cell.way: cell for cell in judge(path.pair)}
    if spec.control is Control.P2P:
        cell = cells[Way.P2P]
        severity = {State.OK: None, State.UNCHECKED: Severity.UNCHECKED}.get(cell.state, Severity.BLOCKER)
        if severity is not None:
            evidence = (Seen(host=cell.source, what=cell.text),)
            yield Finding(code="p2p", severity=severity, sentence=cell.text, seen=evidence, fix=cell.fix)
    clock = cells[Way.CLOCK]
    if clock.state is not State.OK:
        severity = Severity.UNCHECKED if clock.state is State.UNCHECKED else Severity.WARNING
        evidence = (Seen(host=clock.source, what=clock.text),)
        yield Finding(code="clock", severity=severity, sentence=clock.text, seen=evidence, fix=clock.fix)
    yield from _sealed(facts, path)
    yield from _keepalive(facts, path)
    yield from _postcopy(facts, path)


def _is_needed(facts: Facts, code: str) -> bool:
    match code:
        case "p2p":
            return facts.spec.control is Control.P2P
        case "tls-handshake":
            return facts.spec.transport is Transport.TLS
        case "keepalive":
            return facts.spec.driver is DriverKind.LIBVIRT
        case "postcopy-rights":
            return facts.spec.limits.postcopy
        case _:
            return True


def _sealed(facts: Facts, path: Path) -> Iterator[Finding]:
    here, there, reply = facts.source.host, facts.destination.host, path.sealed
    if reply is None or reply.worked:
        return
    yield Finding(
        code="tls-handshake",
        severity=Severity.UNCHECKED if reply.worked is None else Severity.BLOCKER,
        sentence=f"QEMU on {here} and QEMU on {there} do not come to TLS: {reply.said.rstrip('.')}.",
        seen=(Seen(host=here, what=reply.said),),
        fix=f"'segue pki verify {here} {there}' says what is wrong with which certificate; 'issue' and 'install' mend it.",
    )


def _keepalive(facts: Facts, path: Path) -> Iterator[Finding]:
    for side, ground in ((facts.source, path.here), (facts.destination, path.there)):
        if not ground.keepalive and facts.spec.driver is DriverKind.LIBVIRT:
            yield Finding(
                code="keepalive",
                severity=Severity.WARNING,
                sentence=f"The libvirt daemon of {side.host} does not notice that a peer is gone: a cut link leaves it hanging.",
                seen=(Seen(host=side.host, what="keepalive_interval is off in libvirtd.conf or virtqemud.conf"),),
                fix=f"On {side.host}: set keepalive_interval = 5, keepalive_count = 5 (libvirt's defaults), restart the daemon.",
            )


def _postcopy(facts: Facts, path: Path) -> Iterator[Finding]:
    if not facts.spec.limits.postcopy:
        return
    there, offer = facts.destination.host, facts.offer
    user = "" if isinstance(offer, Unseen) else offer.user
    if path.there.userfault is False and user not in ("", "0", "root"):
        yield Finding(
            code="postcopy-rights",
            severity=Severity.WARNING,
            sentence=f"QEMU on {there} runs as {user}, whom the kernel there does not let do post-copy.",
            seen=(Seen(host=there, what="vm.unprivileged_userfaultfd is 0"),),
            fix=f"On {there}: sysctl vm.unprivileged_userfaultfd=1, and keep it in /etc/sysctl.d",
        )
    elif path.there.userfault is None:
        what = f"Whether the kernel of {there} lets QEMU do post-copy could not be read (vm.unprivileged_userfaultfd)."
        yield Finding(code="postcopy-rights", severity=Severity.UNCHECKED, sentence=what)
