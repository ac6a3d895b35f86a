"""Theme CPU and machine: whether the destination can be the same machine to the guest."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from segue.core.forecast import Forecast
from segue.core.measured import BUSY_PERCENT
from segue.core.model import DriverKind
from segue.core.preflight.facts import Facts, Offer, Parts, Unseen
from segue.core.preflight.findings import Finding, Seen, Severity
from segue.units import GIB, KIB, MIB, format_duration_ms

_OF_ITS_HOST: Final = ("host-passthrough", "maximum")
_MOST_NAMED: Final = 12
_NO_SUCH_TYPE: Final = "does not support virt type"
_CODES: Final = (
    "cpu-features",
    "cpu-passthrough",
    "machine-type",
    "qemu-older",
    "accelerator",
    "emulation",
    "first-look",
    "cpu-pinning",
)
_FORGETS_BEFORE: Final = (9, 0)
_TOGETHER_BYTES: Final = 64 * 4 * KIB
"""QEMU takes the dirty bits of 64 pages at once (system/physmem.c, cpu_physical_memory_sync_dirty_bitmap), where all come so."""
_PAGE_BY_PAGE_MS_PER_GIB: Final = 255
"""Else one by one: 770 to 790 ms for 3 GiB on two cores under software emulation; taken together it was less than 60 ms."""
_SET_BYTES: Final = 16 * MIB
_PER_SET_MS_PER_GIB: Final = 900
"""And each page is looked for in all entries of the CPU's TLB, which emulation makes two to three times as many as the guest goes
through pages, and keeps while it is busy (accel/tcg/cputlb.c, tlb_mmu_resize_locked): so much more for each `_SET_BYTES`.
A guest of 224 MiB waited for 172, 443 and 917 ms that went through 8, 32 and 64 MiB; one of 448 MiB, through 32, for 832."""


def find(facts: Facts) -> Iterator[Finding]:
    """Everything about CPU and machine."""
    parts, offer = facts.parts, facts.offer
    unseen = parts if isinstance(parts, Unseen) else offer
    if isinstance(parts, Unseen) or isinstance(offer, Unseen):
        if isinstance(unseen, Unseen):
            for code in _CODES:
                yield unseen.unchecked(code)
        return
    if offer.trouble:
        trouble = _trouble(facts, parts, offer)
        yield trouble
        for code in _CODES:
            if code != trouble.code:
                sentence = f"{facts.destination.host}: its QEMU does not start."
                yield Finding(code=code, severity=Severity.UNCHECKED, sentence=sentence)
        return
    for rule in (_features, _passthrough, _tsc, _type, _older, _accelerator, _emulation, _first_look, _pinning):
        yield from rule(facts, parts, offer)


def _trouble(facts: Facts, parts: Parts, offer: Offer) -> Finding:
    """Why the emulator does not start there.

    That one was built for KVM alone, QEMU says (accel/accel-system.c), and libvirt (qemu_capabilities.c).
    """
    there, seen = facts.destination.host, (Seen(host=facts.destination.host, what=offer.trouble),)
    if f"invalid accelerator {parts.accelerator}" in offer.trouble or _NO_SUCH_TYPE in offer.trouble:
        return Finding(
            code="accelerator",
            severity=Severity.BLOCKER,
            sentence=f"{facts.guest.name} runs under {parts.accelerator}, and {parts.emulator} on {there} was built without it.",
            seen=seen,
            fix=f"Install a QEMU with {parts.accelerator} at that path on {there} ('apt install qemu-system-x86').",
        )
    return Finding(
        code="emulator",
        severity=Severity.BLOCKER,
        sentence=f"{parts.emulator}, which runs {facts.guest.name}, does not start on {there}.",
        seen=seen,
        fix=f"Install QEMU on {there} ('apt install qemu-system-x86'), with that program at that path.",
    )


def _features(facts: Facts, parts: Parts, offer: Offer) -> Iterator[Finding]:
    there = facts.destination.host
    if offer.lacking is None:
        yield Finding(code="cpu-features", severity=Severity.UNCHECKED, sentence=f"{there}: its hypervisor cannot compare CPUs.")
    elif offer.lacking:
        some = ", ".join(offer.lacking[:_MOST_NAMED])
        more = f" and {len(offer.lacking) - _MOST_NAMED} more" if len(offer.lacking) > _MOST_NAMED else ""
        fix = "Move it to a host with these features; live, a CPU cannot lose any."
        if offer.baseline:
            fix += f" A CPU that both can give, from its next start on: {offer.baseline}"
        yield Finding(
            code="cpu-features",
            severity=Severity.BLOCKER,
            sentence=f"{facts.guest.name} sees CPU features that {there} does not have: {some}{more}.",
            seen=(
                Seen(host=facts.source.host, what=f"the guest's live CPU: {parts.cpu.model or parts.cpu.mode}"),
                Seen(host=there, what=f"lacks {', '.join(offer.lacking)}"),
            ),
            fix=fix,
        )


def _passthrough(facts: Facts, parts: Parts, offer: Offer) -> Iterator[Finding]:
    if parts.cpu.mode not in _OF_ITS_HOST:
        return
    here, there = facts.source.host, facts.destination.host
    known = parts.host_cpu and offer.host_cpu
    if known and parts.host_cpu == offer.host_cpu:
        sentence = f"{facts.guest.name} sees the CPU of its host ({parts.cpu.mode}): only hosts that are alike will do."
    else:
        sentence = f"{facts.guest.name} sees the CPU of {here} itself ({parts.cpu.mode}), and {there} may have another."
    yield Finding(
        code="cpu-passthrough",
        severity=Severity.NOTE if known and parts.host_cpu == offer.host_cpu else Severity.WARNING,
        sentence=sentence,
        seen=(
            Seen(host=here, what=f"CPU {parts.host_cpu or 'not told'}"),
            Seen(host=there, what=f"CPU {offer.host_cpu or 'not told'}"),
        ),
        fix="From its next start on, give it a named model (libvirt: host-model; bare QEMU: -cpu MODEL).",
    )


def _tsc(facts: Facts, parts: Parts, _: Offer) -> Iterator[Finding]:
    """An invariant TSC cannot be moved unless its frequency was fixed (QEMU, target/i386/kvm/kvm.c, invtsc_mig_blocker)."""
    if "invtsc" not in parts.cpu.features or parts.accelerator != "kvm" or parts.blocked == () or parts.cpu.tsc_fixed:
        return
    yield Finding(
        code="tsc",
        severity=Severity.BLOCKER,
        sentence=f"{facts.guest.name} was promised a clock that never changes its rate (invtsc), which no other host can keep.",
        seen=(Seen(host=facts.source.host, what="CPU feature invtsc, without a fixed frequency"),),
        fix="From its next start on: fix the frequency (<timer name='tsc' frequency='…'/>, tsc-frequency=), or leave invtsc out.",
    )


def _type(facts: Facts, parts: Parts, offer: Offer) -> Iterator[Finding]:
    if not parts.machine or parts.machine in offer.machines:
        return
    there = facts.destination.host
    family = parts.machine.rstrip("0123456789.")
    alike = sorted((name for name in offer.machines if name.startswith(family)), key=_numbers)
    yield Finding(
        code="machine-type",
        severity=Severity.BLOCKER,
        sentence=f"QEMU on {there} does not know the machine type {parts.machine}.",
        seen=(
            Seen(host=there, what=f"knows {len(alike)} of that family, the newest {alike[-1]}" if alike else "knows none alike"),
        ),
        fix=f"Install a QEMU on {there} that is as new as the source's, or start the guest with an older machine type.",
    )


def _numbers(machine: str) -> list[int]:
    """Of a machine type: pc-q35-7.2 is older than pc-q35-10.0."""
    return [int(part) for part in machine.rpartition("-")[2].split(".") if part.isdigit()]


def _older(facts: Facts, parts: Parts, offer: Offer) -> Iterator[Finding]:
    if not parts.qemu or not offer.qemu or offer.qemu[:2] >= parts.qemu[:2]:
        return
    here, there = (".".join(map(str, one)) for one in (parts.qemu, offer.qemu))
    yield Finding(
        code="qemu-older",
        severity=Severity.WARNING,
        sentence=f"{facts.guest.name} would go from QEMU {here} to an older one, {there}: that often works, and nobody tests it.",
        seen=(Seen(host=facts.source.host, what=f"QEMU {here}"), Seen(host=facts.destination.host, what=f"QEMU {there}")),
        fix=f"Upgrade QEMU on {facts.destination.host} first.",
    )


def _accelerator(facts: Facts, parts: Parts, offer: Offer) -> Iterator[Finding]:
    if parts.accelerator in offer.accelerators:
        return
    there = facts.destination.host
    yield Finding(
        code="accelerator",
        severity=Severity.BLOCKER,
        sentence=f"{facts.guest.name} runs under {parts.accelerator}, which {there} does not offer.",
        seen=(Seen(host=there, what=f"offers {', '.join(sorted(offer.accelerators)) or 'nothing'}"),),
        fix=f"On {there}: load kvm ('modprobe kvm_intel' or 'kvm_amd'), and turn virtualisation on in its firmware.",
    )


def _emulation(facts: Facts, parts: Parts, _: Offer) -> Iterator[Finding]:
    """An emulated guest whose QEMU forgets writes ("physmem: Fix migration dirty bitmap coherency with TCG memory access", 9.0).

    It clears the dirty bits of 64 pages together without telling the guest's CPUs, which write on without a word until their TLB
    is next emptied. Guests were seen to stop for good after they arrived, with Segue, libvirt and a bare script; none whose
    memory is no multiple of 64 pages, as QEMU then takes the bits one by one.
    """
    total = parts.memory.total_bytes
    if parts.accelerator != "tcg" or not parts.qemu or parts.qemu >= _FORGETS_BEFORE or total % _TOGETHER_BYTES:
        return
    version = ".".join(map(str, parts.qemu))
    more = f"with '-m {total // KIB + 8}k', " * (facts.guest.driver is DriverKind.QEMU)  # libvirt rounds it to whole MiB
    yield Finding(
        code="emulation",
        severity=Severity.WARNING,
        sentence=f"{facts.guest.name} runs under emulation, and QEMU {version} may forget what it writes while it is moved: "
        "it may stop for good once it has arrived.",
        seen=(Seen(host=facts.source.host, what=f"tcg, QEMU {version}, {total // MIB} MiB"),),
        fix=f"Start it {more}under KVM, or under QEMU 9.0 or newer.",
    )


def _first_look(facts: Facts, parts: Parts, _: Offer) -> Iterator[Finding]:
    """How long the guest's clients wait when it begins, where that is longer, or may be, than was promised.

    When it begins all memory counts as dirty, and QEMU looks through all of it under its big lock: the guest runs on, and what it
    sends and gets waits. Page by page that is a quarter of a second a GiB, and more for a guest that keeps writing. It is not
    QEMU's downtime, and no setting shortens it.
    """
    total, limits = parts.memory.total_bytes, facts.spec.limits
    begins_ms = total * _PAGE_BY_PAGE_MS_PER_GIB // GIB
    each_ms = total * _PER_SET_MS_PER_GIB // GIB if _is_busy(facts) else 0
    written = _written_bytes(facts)
    most_ms = begins_ms + each_ms * (total if written is None else written) // _SET_BYTES
    if parts.accelerator != "tcg" or not total % _TOGETHER_BYTES or not limits.is_longer(most_ms):
        return
    wait, more = format_duration_ms(most_ms), ""
    if each_ms and written is None:
        wait = format_duration_ms(begins_ms)
        more = f", and for about {format_duration_ms(each_ms)} more for each {_SET_BYTES // MIB} MiB that it keeps writing to"
    yield Finding(
        code="first-look",
        severity=Severity.WARNING,
        sentence=f"Clients of {facts.guest.name} will wait for about {wait} when it begins to move{more}; "
        f"{limits.max_downtime_ms} ms of standstill are promised. QEMU looks at its memory page by page.",
        seen=(Seen(host=facts.source.host, what=f"tcg, {total // KIB} KiB, no multiple of {_TOGETHER_BYTES // KIB} KiB"),),
        fix="Start it under KVM, or under QEMU 9.0 or newer with memory that is a multiple of that, or let it wait.",
    )


def _written_bytes(facts: Facts) -> int | None:
    """What the guest was seen to write in the shortest window; ``None`` where nobody watched it."""
    if not isinstance(facts.expected, Forecast):
        return None
    return min(facts.expected.seen.windows, key=lambda window: window.ms).dirtied_bytes


def _is_busy(facts: Facts) -> bool:
    seen = None if isinstance(facts.standing, Unseen) else facts.standing.busy_percent
    return seen is not None and seen >= BUSY_PERCENT


def _pinning(facts: Facts, parts: Parts, offer: Offer) -> Iterator[Finding]:
    if not offer.cpus or not (beyond := sorted(one for one in parts.cpu.pinned if one >= offer.cpus)):
        return
    there = facts.destination.host
    yield Finding(
        code="cpu-pinning",
        severity=Severity.BLOCKER,
        sentence=f"{facts.guest.name} is pinned to CPUs {', '.join(map(str, beyond))}, and {there} has {offer.cpus} only.",
        seen=(Seen(host=there, what=f"CPUs 0 to {offer.cpus - 1}"),),
        fix=f"virsh vcpupin {facts.guest.name} 0 0-{offer.cpus - 1} --live, for each of its CPUs",
    )
