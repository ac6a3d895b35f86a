"""What a running domain uses and dirties, as libvirt tells it: statistics of memory, and virDomainStartDirtyRateCalc.

libvirt knows the latter since 7.2. Pages are sampled, which is its default: the other modes crash QEMU 7.2 under TCG, and the
guest with it. To start a measurement libvirt needs the job that a migration holds; the result can be read also while one runs.
What may live here: these queries.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import libvirt

from segue import units
from segue.core.measured import Range, Touched

SAMPLES_PER_GIB: Final = 512
"""QEMU's default (migration/dirtyrate.h, DIRTYRATE_DEFAULT_SAMPLE_PAGES); libvirt has no word for another."""
_NOWAIT: Final = libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT
LOOK_S: Final = 0.1
GRACE_S: Final = 5.0
"""After the window, for the pages to be hashed again."""
OWN_BYTES: Final = {
    True: Range(low=25 * units.MIB, likely=45 * units.MIB, high=90 * units.MIB),
    False: Range(low=85 * units.MIB, likely=107 * units.MIB, high=140 * units.MIB),
}
"""Of the resident set of a QEMU process, what is not the guest's memory, with KVM and without: TCG keeps the code that it
translates. 107 and 109 MiB were seen without."""


SENT_PERCENT: Final = 92
"""Of resident memory some pages are all zeros, which QEMU sends as such: 6 to 10 % were seen in small guests."""


def in_use(domain: libvirt.virDomain) -> Touched | None:
    """Memory of the guest that is in use; ``None`` where libvirt does not say. Blocks."""
    memory = domain.maxMemory() * units.KIB
    resident = domain.memoryStats().get("rss")
    if not isinstance(resident, int):
        return None
    resident *= units.KIB
    own = OWN_BYTES[domain.XMLDesc().startswith("<domain type='kvm'")]
    low, likely, high = (max(0, min(memory, resident - qemus)) for qemus in (own.high, own.likely, own.low))
    return Touched(
        bytes=Range(low=low * 9 // 10, likely=likely * SENT_PERCENT // 100, high=high),
        how="resident memory of its QEMU, without what is QEMU's own",
        of_bytes=memory,
    )


def start(domain: libvirt.virDomain, seconds: int) -> None:
    """Begin to watch. Blocks."""
    domain.startDirtyRateCalc(seconds, libvirt.VIR_DOMAIN_DIRTYRATE_MODE_PAGE_SAMPLING)


def cpu_ns(domain: libvirt.virDomain) -> int:
    """What its QEMU has used of CPU time. Blocks."""
    return int(domain.info()[4])


def wanted_ns(connection: libvirt.virConnect, domain: libvirt.virDomain) -> int:
    """What its CPUs have used of CPU time, and waited for, where others had it. Blocks; not for a job that is under way."""
    ((_, stats),) = connection.domainListGetStats([domain], libvirt.VIR_DOMAIN_STATS_VCPU, _NOWAIT) or ((domain, {}),)
    return sum(value for name, value in stats.items() if name.endswith((".time", ".delay")) and isinstance(value, int))


def measured(connection: libvirt.virConnect, domain: libvirt.virDomain) -> int | None:
    """MiB/s of the last window; ``None`` while it is being measured. Blocks."""
    ((_, stats),) = connection.domainListGetStats([domain], libvirt.VIR_DOMAIN_STATS_DIRTYRATE) or ((domain, {}),)
    return rate_of(stats)


def rate_of(stats: Mapping[str, object]) -> int | None:
    """The same, from the statistics."""
    rate = stats.get("dirtyrate.megabytes_per_second")
    if stats.get("dirtyrate.calc_status") != libvirt.VIR_DOMAIN_DIRTYRATE_MEASURED or not isinstance(rate, int):
        return None
    return rate
