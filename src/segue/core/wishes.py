"""What can be asked of libvirt beyond what is asked of every hypervisor, as one frozen value. Bare QEMUs know some of it, too.

What may live here: that value and predicates about it. What libvirt calls each of these is in `virsh`.
"""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True, slots=True, kw_only=True)
class LibvirtWishes:
    """What is wanted of libvirt. As it is made without words, nothing is.

    Attributes:
        rename: the guest's name on the destination; empty: it keeps its own.
        xml: the whole definition that the running guest is to have on the destination; empty: its own.
        persistent_xml: the same of what is kept for its next start.
        suspend: it arrives standing still, and a person lets it go on.
        offline: only the definition of a guest that does not run is moved; its disks are not.
        change_protection: nobody may change its definition while it moves.
        abort_on_error: an I/O error of its disks on the way ends the migration.
        unsafe: libvirt is not to refuse a disk whose cache could make the destination read what is old.
        compressed: pages are compressed as the hypervisor chooses.
        compression: by these methods: ``xbzrle`` and ``mt``, or with several connections ``zlib`` or ``zstd``.
        xbzrle_cache_bytes: how much of what was sent is remembered, to send differences only.
        mt_level, mt_threads, mt_dthreads: level (0 to 9) and threads on the source and on the destination.
        zlib_level: 0 to 9.
        zstd_level: 0 to 20.
        throttle_initial_percent, throttle_increment_percent: how much of the guest's CPU time auto-converge takes away at
            first, and more with each step.
        postcopy_bandwidth_bps: at most so many bytes per second once post-copy runs.
        switchover_bandwidth_bps: what the link is taken to carry when the switchover is weighed.
        zero_copy: memory is sent without being copied into the kernel; it has to be locked for that.
        migration_uri: where memory is sent, in libvirt's words (``tcp://…``, ``rdma://…``, ``unix://…``); empty: as it is found.
        listen_address: the address on which the destination listens.
        tls_destination: the name that the destination's certificate has to bear.
        graphics_uri: where a SPICE client is sent on to.
        rdma_pin_all: all memory is locked before it goes over RDMA.
        copied_disks: of the disks that are copied only these, by their targets (``vda``).
        disks_uri: where copied disks are sent, in libvirt's words.
        detect_zeroes: of the copied disks those whose zeroes are not written on the destination.
    """

    rename: str = ""
    xml: str = ""
    persistent_xml: str = ""
    suspend: bool = False
    offline: bool = False
    change_protection: bool = False
    abort_on_error: bool = False
    unsafe: bool = False
    compressed: bool = False
    compression: tuple[str, ...] = ()
    xbzrle_cache_bytes: int | None = None
    mt_level: int | None = None
    mt_threads: int | None = None
    mt_dthreads: int | None = None
    zlib_level: int | None = None
    zstd_level: int | None = None
    throttle_initial_percent: int | None = None
    throttle_increment_percent: int | None = None
    postcopy_bandwidth_bps: int | None = None
    switchover_bandwidth_bps: int | None = None
    zero_copy: bool = False
    migration_uri: str = ""
    listen_address: str = ""
    tls_destination: str = ""
    graphics_uri: str = ""
    rdma_pin_all: bool = False
    copied_disks: tuple[str, ...] = ()
    disks_uri: str = ""
    detect_zeroes: tuple[str, ...] = ()

    @property
    def asked(self) -> tuple[str, ...]:
        """The names of those fields that ask for something."""
        return tuple(one.name for one in fields(self) if getattr(self, one.name) != one.default)
