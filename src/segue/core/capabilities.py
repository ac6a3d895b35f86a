"""What both QEMUs have to know for a migration (query-migrate-capabilities). What may live here: the table, and what follows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from segue.core.model import MigrationSpec

# Capability → when it is wanted (qapi/migration.json, MigrationCapability). Everything else is turned off, also what somebody
# else had turned on: both sides must agree, and a leftover may change what the stream looks like.
#
# Without the return path QEMU under-reports downtime: 2 to 43 ms were said when a guest stood for 97 to 128 ms, with it both
# agree within 5 ms. Disks are taken over only when the destination is told to run (late-block-activate). That the source stops
# and waits before the switchover (pause-before-switchover) costs a round trip of downtime; only disks that are copied need it.
NEEDED: Final[dict[str, Callable[[MigrationSpec], bool]]] = {
    "events": lambda _: True,
    "return-path": lambda _: True,
    "late-block-activate": lambda _: True,
    "auto-converge": lambda spec: spec.limits.auto_converge,
    "postcopy-ram": lambda spec: spec.limits.postcopy,
    "multifd": lambda spec: spec.connections > 1,
    "xbzrle": lambda spec: "xbzrle" in spec.libvirt.compression,
    "pause-before-switchover": lambda spec: spec.disks is not None,
}
# Wanted where both know it. xbzrle: a QEMU may be built without.
# switchover-ack (QEMU 8.1): the source switches over when the destination has made its devices ready.
# postcopy-preempt: a page that the guest waits for overtakes the others. QEMU 7.2 knows it too, in another form on the wire than
# 8.0 (hw/core/machine.c, x-preempt-pre-7-2), so it is wanted only where switchover-ack tells that both are newer.
HELPFUL: Final[dict[str, Callable[[MigrationSpec], bool]]] = {
    "switchover-ack": lambda _: True,
    "postcopy-preempt": lambda spec: spec.limits.postcopy,
    "xbzrle": lambda spec: spec.deltas,
}
TELLS_NEWER: Final = {"postcopy-preempt": "switchover-ack"}
"""Who knows the second knows the first in the form that it has kept."""


def needed(spec: MigrationSpec) -> frozenset[str]:
    """Those that both must know."""
    return frozenset(name for name, wanted in NEEDED.items() if wanted(spec))
