"""Sending of a page that was sent before only what has changed in it (QEMU's XBZRLE): when, and how much is remembered for it.

QEMU keeps a copy of each page that it sends a second time; from the third time on it sends what differs from that (QEMU,
docs/xbzrle.txt). A guest that changes little of each page then goes over a link that it would outrun, without being slowed. How
little that is nobody knows beforehand, and it cannot be turned on under way: QEMU refuses the capability then, and 7.2 takes no
notice of another size of the cache. So Segue's own ladder has it on from the start. It costs memory on the source, as pages are
sent again, and nothing where all ends with the second iteration.

What may live here: arithmetic on bytes, and what goes with what.
"""

from __future__ import annotations

from typing import Final

from segue import units
from segue.core.forecast import Forecast
from segue.core.model import MigrationSpec

FLOW_FROM: Final = 3
"""All memory goes over in the first iteration; in the second what is sent is remembered, in the third deltas go over."""
SEEN_FROM: Final = 4
"""And when the fourth begins it is seen what they bring."""
SOON_MS: Final = 8_000
"""Where all memory takes longer, nobody waits for that who could be told at once that a promise cannot be kept."""
LEAST_BYTES: Final = 16 * units.MIB
"""To remember less is not worth it."""
SPARE_SHARE: Final = 4
"""Of the memory that the source has to spare, no more than this part."""


def possible(spec: MigrationSpec) -> bool:
    """Segue's own ladder is climbed, and nothing that was asked for stands in the way.

    A declared ladder is climbed as it is declared; several connections know no deltas (libvirt refuses both). Where post-copy is
    preferred it begins before any would go over.
    """
    wishes = spec.libvirt
    own = spec.policy is None and not spec.observe_only
    otherwise = bool(wishes.compression) or wishes.compressed or wishes.zero_copy or wishes.offline
    rdma = wishes.migration_uri.startswith("rdma:")  # which sends pages by itself
    return own and spec.connections == 1 and not spec.limits.prefer_postcopy and not otherwise and not rdma


def soon(expected: Forecast) -> bool:
    """Pre-copy does not converge without them, and what they bring is seen soon enough."""
    touched, path = expected.seen.touched, expected.seen.path
    if touched is None or path is None or expected.precopy.converges:
        return False
    return touched.bytes.likely * 1000 <= path.bps.likely * SOON_MS


def come_first(spec: MigrationSpec, expected: Forecast) -> bool:
    """What they bring is seen before a promise is said not to be kept."""
    return spec.deltas and soon(expected)


def remembered_bytes(guest_bytes: int, spare_bytes: int) -> int:
    """How much to remember: a power of two, as QEMU has it; 0 where the source has too little to spare.

    Each page has one place, by its address. With places for all none is in another's way, and no more than the guest's memory is
    ever taken: of 96 MiB that were written anywhere in 224, 128 MiB of places did not always hold enough.

    Args:
        guest_bytes: the guest's memory.
        spare_bytes: what QEMU may use more than it does.
    """
    most = spare_bytes // SPARE_SHARE
    if 0 < guest_bytes <= most:
        return max(LEAST_BYTES, 1 << (guest_bytes - 1).bit_length())
    return 1 << (most.bit_length() - 1) if most >= LEAST_BYTES else 0
