"""Theme control: whether those who carry the migration out reach and believe each other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final
from urllib.parse import urlsplit

from segue.core.capabilities import needed
from segue.core.connectivity import State, Way, judge
from segue.core.model import Control, DriverKind, Transport
from segue.core.preflight.facts import Facts, Path, Unseen
from segue.core.preflight.findings import Finding, Seen, Severity
from segue.core.preflight.network import unseen

_CODES: Final = ("user-rights", "p2p", "tls-handshake", "clock", "keepalive", "postcopy-rights")


def find(facts: Facts) -> Iterator[Finding]:
    """Everything about who talks to whom."""
    path, spec = facts.path, facts.spec
    yield from _capabilities(facts)
    if isinstance(path, Unseen):
        yield from unseen(path, tuple(code for code in _CODES if _is_needed(facts, code)))
        return
    yield from _user(facts, path) if spec.driver is DriverKind.QEMU else _connection(facts, path)
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


def _user(facts: Facts, path: Path) -> Iterator[Finding]:
    """Whether a bare guest can run there as whom it runs here: root starts it as anybody, everybody else as themselves."""
    if isinstance(facts.parts, Unseen):
        yield from unseen(facts.parts, ("user-rights",))
        return
    login, there = path.pair.destination.user, facts.destination.host
    user = facts.parts.user or path.pair.source.user
    if not login or not user or user == login or (login == "root" and facts.parts.user):
        return
    evidence = (Seen(host=facts.source.host, what=f"its QEMU runs as {user}"), Seen(host=there, what=f"logged in as {login}"))
    ends = (
        f"whom {login}, who is logged in on {there}, may not become" if facts.parts.user else f"and would on {there} as {login}"
    )
    yield Finding(
        code="user-rights",
        severity=Severity.BLOCKER if facts.parts.user else Severity.WARNING,
        sentence=f"{facts.guest.name} runs as {user}, {ends}.",
        seen=evidence,
        fix=f"Log in on {there} as {user} or root: its address in segue.toml, qmp+ssh://{user}@HOST.",
    )


def _connection(facts: Facts, path: Path) -> Iterator[Finding]:
    """What the address of the destination's libvirt says of rights; what polkit forbids there only the act itself shows."""
    there = facts.destination.host
    uri = next((one.uri for one in path.pair.there if one.driver is DriverKind.LIBVIRT), "")
    read = urlsplit(uri)
    evidence = (Seen(host=there, what=f"address {uri}"),)
    if read.query.partition("socket=")[2].partition("&")[0].endswith("-ro"):
        yield Finding(
            code="user-rights",
            severity=Severity.BLOCKER,
            sentence=f"{there} is reached by libvirt's read-only socket, on which nothing can be migrated.",
            seen=evidence,
            fix=f"Leave out socket= in the address of {there}, or name the socket without -ro.",
        )
    elif read.path == "/session":
        yield Finding(
            code="user-rights",
            severity=Severity.WARNING,
            sentence=f"The libvirt of {there} is one user's own: without root's rights it has no bridges and no devices.",
            seen=evidence,
            fix=f"Use the system's: {uri.removesuffix('/session')}/system",
        )


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


def _capabilities(facts: Facts) -> Iterator[Finding]:
    """Whether both QEMUs know what the migration needs; libvirt agrees about that by itself."""
    if facts.spec.driver is not DriverKind.QEMU:
        return
    for side, said in ((facts.source, facts.parts), (facts.destination, facts.offer)):
        if isinstance(said, Unseen):
            yield from unseen(said, ("capabilities",))
        elif said.capabilities is None:
            sentence = f"{side.host}: its QEMU does not say what it can do for a migration."
            yield Finding(code="capabilities", severity=Severity.UNCHECKED, sentence=sentence)
        elif missing := sorted(needed(facts.spec) - said.capabilities):
            yield Finding(
                code="capabilities",
                severity=Severity.BLOCKER,
                sentence=f"QEMU on {side.host} is too old: it does not know {', '.join(missing)}.",
                seen=(Seen(host=side.host, what=f"query-migrate-capabilities without {', '.join(missing)}"),),
                fix="Ask for less (--postcopy, --connections, --compression), or move it to a host with a newer QEMU.",
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
    if facts.spec.driver is DriverKind.QEMU and not isinstance(facts.parts, Unseen):  # it runs there as whom it runs here
        user = facts.parts.user or path.pair.destination.user
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
