"""Theme memory: whether the destination has the memory that the guest may take, of the kind that it takes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from segue.core.preflight.facts import Facts, HostMemory, Parts, Unseen
from segue.core.preflight.findings import Finding, Seen, Severity
from segue.units import KIB, format_bytes

_CODES: Final = ("memory", "huge-pages", "memory-lock", "numa")
_RDMA: Final = "rdma:"


def find(facts: Facts) -> Iterator[Finding]:
    """Everything about memory."""
    parts, offer = facts.parts, facts.offer
    memory = offer if isinstance(offer, Unseen) else offer.memory
    unseen = next((one for one in (parts, memory) if isinstance(one, Unseen)), None)
    if isinstance(parts, Unseen) or isinstance(memory, Unseen):
        if unseen is not None:
            for code in _CODES:
                yield unseen.unchecked(code)
        return
    yield from _pages(facts, parts, memory) if parts.memory.page_bytes else _plain(facts, parts, memory)
    yield from _locks(facts, parts, memory)
    yield from _nodes(facts, parts, memory)


def _plain(facts: Facts, parts: Parts, memory: HostMemory) -> Iterator[Finding]:
    there, wanted = facts.destination.host, parts.memory.total_bytes
    if wanted <= memory.available_bytes:
        return
    swap = 0 if parts.memory.locked else memory.swap_bytes
    enough = wanted <= memory.available_bytes + swap
    how = "only by swapping" if enough else "not at all, so that something there would be killed"
    yield Finding(
        code="memory",
        severity=Severity.WARNING if enough else Severity.BLOCKER,
        sentence=f"{facts.guest.name} may take {format_bytes(wanted)} of memory, which {there} can give {how}.",
        seen=(
            Seen(host=there, what=f"{format_bytes(memory.available_bytes)} available, {format_bytes(memory.swap_bytes)} swap"),
        ),
        fix=f"Move other guests away from {there}, or let this one shrink first ('virsh setmem', 'balloon' in its monitor).",
    )


def _pages(facts: Facts, parts: Parts, memory: HostMemory) -> Iterator[Finding]:
    there, size = facts.destination.host, parts.memory.page_bytes
    needed = -(-parts.memory.total_bytes // size)
    free = memory.pages.get(size, 0)
    if needed <= free:
        return
    yield Finding(
        code="huge-pages",
        severity=Severity.BLOCKER,
        sentence=f"{facts.guest.name} needs {needed} huge pages of {format_bytes(size)}, and {there} has {free} free.",
        seen=(Seen(host=there, what=f"hugepages-{size // 1024}kB/free_hugepages: {free}"),),
        fix=f"On {there}: cd /sys/kernel/mm/hugepages/hugepages-{size // 1024}kB && "
        f"echo $(($(cat nr_hugepages) + {needed - free})) > nr_hugepages",
    )


def _locks(facts: Facts, parts: Parts, memory: HostMemory) -> Iterator[Finding]:
    """Memory that has to be locked.

    Libvirt lifts the limit of its QEMUs by itself where they lock their memory or send it without a copy; over RDMA it wants a
    hard limit to lift it to (qemu_migration.c, "cannot start RDMA migration with no memory hard limit set"). A bare QEMU locks
    all that it maps, mlockall(2), and ends when it may not.
    """
    name, here, there, total = facts.guest.name, facts.source.host, facts.destination.host, parts.memory.total_bytes
    if facts.spec.libvirt.migration_uri.startswith(_RDMA) and not parts.memory.limit_bytes:
        yield Finding(
            code="memory-lock",
            severity=Severity.BLOCKER,
            sentence=f"Over RDMA the memory of {name} is locked, and libvirt does not do that for a guest without a hard limit.",
            seen=(Seen(host=here, what="its XML has no memtune/hard_limit"),),
            fix=f"virsh memtune {name} --hard-limit {2 * total // KIB} --live --config",
        )
    if not parts.memory.locked or memory.lock_bytes is None or memory.lock_bytes > total:
        return
    user, may = parts.user or "USER", format_bytes(memory.lock_bytes)
    yield Finding(
        code="memory-lock",
        severity=Severity.BLOCKER,
        sentence=f"{name} locks its memory ({format_bytes(total)}), and {there} lets its QEMU lock {may}.",
        seen=(Seen(host=there, what=f"ulimit -l: {memory.lock_bytes // KIB} KiB, without the capability CAP_IPC_LOCK"),),
        fix=f"On {there}: echo '{user} - memlock unlimited' >/etc/security/limits.d/qemu.conf, for who logs in there, too.",
    )


def _nodes(facts: Facts, parts: Parts, memory: HostMemory) -> Iterator[Finding]:
    nodes, there = parts.memory.nodes, facts.destination.host
    if not nodes:
        return
    missing = sorted(nodes - memory.nodes.keys())
    free = sum(memory.nodes.get(node, 0) for node in nodes)
    if not missing and (parts.memory.page_bytes or parts.memory.total_bytes <= free):
        return
    named = ", ".join(map(str, sorted(nodes)))
    why = f"has no node {', '.join(map(str, missing))}" if missing else f"has {format_bytes(free)} free on it"
    yield Finding(
        code="numa",
        severity=Severity.BLOCKER,
        sentence=f"The memory of {facts.guest.name} is bound to NUMA node {named}, and {there} {why}.",
        seen=(
            Seen(host=there, what=", ".join(f"node {node}: {format_bytes(size)} free" for node, size in memory.nodes.items())),
        ),
        fix="Bind it to other nodes from its next start on (libvirt: <numatune>; bare QEMU: host-nodes=), or not at all.",
    )
