"""Theme guest: whether the guest is in a state to be moved, and what of it would stay behind."""

from __future__ import annotations

from collections.abc import Iterator

from segue.core.model import DriverKind, GuestState
from segue.core.preflight.facts import Facts, Standing, Unseen
from segue.core.preflight.findings import Finding, Seen, Severity


def find(facts: Facts) -> Iterator[Finding]:
    """Everything about the state of the guest, and what cannot be done with it."""
    yield from _asked(facts)
    yield from _hosts(facts)
    if facts.guest.obstacle:
        yield _blocker(facts, "unsupported", facts.guest.obstacle, seen=facts.guest.obstacle)
    if isinstance(facts.standing, Unseen):
        yield from _unseen(facts.standing)
        yield from _state(facts, facts.guest.state, raw="")
        return
    yield from _state(facts, facts.standing.state, raw=facts.standing.raw)
    yield from _what_stays(facts, facts.standing)


def _asked(facts: Facts) -> Iterator[Finding]:
    if isinstance(facts.objections, Unseen):
        yield facts.objections.unchecked("asked")
        return
    for one in facts.objections:
        yield Finding(code=one.code, severity=Severity.BLOCKER, sentence=one.sentence, seen=(one.seen,), fix=one.fix)


def _unseen(standing: Unseen) -> Iterator[Finding]:
    for code in ("io-error", "snapshots", "checkpoints", "managed-save", "autostart"):
        yield standing.unchecked(code)


def _blocker(facts: Facts, code: str, sentence: str, *, seen: str, fix: str = "") -> Finding:
    evidence = (Seen(host=facts.source.host, what=seen),)
    return Finding(code=code, severity=Severity.BLOCKER, sentence=sentence, seen=evidence, fix=fix)


def _hosts(facts: Facts) -> Iterator[Finding]:
    here, there = facts.source, facts.destination
    if here.identity == there.identity:
        yield Finding(
            code="same-host",
            severity=Severity.BLOCKER,
            sentence=f"{here.host} and {there.host} are the same host.",
            seen=(Seen(host=here.host, what=f"identity {here.identity}, the destination's too"),),
            fix="Name another host as the destination.",
        )
        return
    if there.sighting is not None and not there.sighting.sighting.is_idle:
        name, sighting = facts.spec.arrives_as, there.sighting
        yield Finding(
            code="destination-taken",
            severity=Severity.BLOCKER,
            sentence=f"{there.host} already has a guest {name}: {sighting.sighting} ({sighting.raw}).",
            seen=(Seen(host=there.host, what=f"{name} {sighting.sighting} ({sighting.raw})"),),
            fix=f"Look at it with 'segue guests {there.host}'; only a person can say which of the two is wanted.",
        )


def _state(facts: Facts, state: GuestState, *, raw: str) -> Iterator[Finding]:
    name, job = facts.guest.name, facts.standing.job if isinstance(facts.standing, Standing) else ""
    errors = facts.standing.io_errors if isinstance(facts.standing, Standing) else ()
    seen = ", ".join(part for part in (f"state {state}", raw, job) if part)
    if state in (GuestState.MIGRATING_IN, GuestState.MIGRATING_OUT):
        words = f"A migration of {name} is already under way."
        yield _blocker(facts, "guest-busy", words, seen=seen, fix="Wait for it to end, or cancel it.")
    elif job:
        words = f"A job of {name} is under way: {job}."
        yield _blocker(facts, "guest-busy", words, seen=seen, fix="Wait for it to end, or abort it.")
    if errors and state is not GuestState.RUNNING:
        words = f"{name} was stopped by an I/O error on {', '.join(errors)}."
        fix = f"Mend the storage, then resume the guest: 'virsh -c URI resume {name}' or 'cont' in its monitor."
        yield _blocker(facts, "io-error", words, seen=seen, fix=fix)
    elif state is GuestState.UNKNOWN and not facts.guest.obstacle:
        words = f"{name} is in a state that Segue does not know."
        yield _blocker(facts, "guest-not-running", words, seen=seen)
    elif facts.spec.libvirt.offline and state is not GuestState.SHUT_OFF:
        words = f"{name} is not shut off: to move its definition away from under it would leave it without one."
        yield _blocker(facts, "asked", words, seen=seen, fix="Leave out --offline, and it is moved with its definition.")
    elif state in (GuestState.PAUSED, GuestState.SHUT_OFF) and not facts.spec.libvirt.offline:
        words = f"Guest {name} does not run, so there is nothing to move live."
        yield _blocker(facts, "guest-not-running", words, seen=seen, fix="Start or resume it first.")


def _what_stays(facts: Facts, standing: Standing) -> Iterator[Finding]:
    """What libvirt itself would leave behind, its driver takes along; of a bare QEMU nothing stays but what is not copied."""
    name, host, there = facts.guest.name, facts.source.host, facts.destination.host

    def found(code: str, severity: Severity, sentence: str, what: str, fix: str) -> Finding:
        return Finding(code=code, severity=severity, sentence=sentence, seen=(Seen(host=host, what=what),), fix=fix)

    carried = facts.spec.driver is DriverKind.LIBVIRT
    if standing.snapshots and (carried or facts.spec.disks is not None):
        kept = "what libvirt knows of them is taken along" if carried else "which are not copied with its disks"
        yield found(
            "snapshots",
            Severity.NOTE if carried else Severity.WARNING,
            f"{name} has {len(standing.snapshots)} snapshot(s): {kept}.",
            f"snapshots {', '.join(standing.snapshots)}",
            f"See on {there} after the move: virsh snapshot-list {name}"
            if carried
            else "Save them first: qemu-img convert -l NAME",
        )
    if standing.checkpoints:
        yield found(
            "checkpoints",
            Severity.NOTE,
            f"{name} has {len(standing.checkpoints)} checkpoint(s): what libvirt knows of them is taken along.",
            f"checkpoints {', '.join(standing.checkpoints)}",
            f"See on {there} after the move: virsh checkpoint-list {name}",
        )
    if standing.managed_save:
        yield found(
            "managed-save",
            Severity.WARNING,
            f"A saved state of {name} is kept on {host}; started there later, it would resume that old state.",
            "managed save image",
            f"virsh managedsave-remove {name}",
        )
    if standing.autostart:
        yield found(
            "autostart",
            Severity.NOTE,
            f"{name} starts with {host}; after the move it starts with {there}.",
            "autostart enabled",
            f"If it shall not: virsh autostart {name} --disable",
        )
