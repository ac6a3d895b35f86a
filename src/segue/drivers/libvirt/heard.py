"""Hears from both libvirtds when QEMU stopped the guest, when all of it had arrived, and when it ran again.

libvirt's own events come after what it does about QEMU's; so QEMU's are listened to (virConnectDomainQemuMonitorEventRegister,
of libvirt-qemu; to listen changes nothing, and taints no domain). They carry the time of their host, and arrive here when the
connection is not busy with a call: so the quickest of a host's events says how its clock differs from ours, and the stamps say
the rest.

What may live here: that listening. A libvirtd that does not allow it leaves the moments unknown.
"""

from __future__ import annotations

import contextlib
import functools
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import libvirt
import libvirt_qemu

from segue.core.downtime import Moments

EVENTS: Final = ("STOP", "RESUME", "MIGRATION", "MIGRATION_PASS")
"""qapi/run-state.json and qapi/migration.json; libvirt switches QEMU's migration events on for itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Heard:
    """One event: its words, and its time on its host's clock and on ours, in ms."""

    what: str
    stamp_ms: int
    arrived_ms: int


class Ear:
    """Listens for one guest on one host. Its methods but `moment_ms` block: call them in a thread.

    Args:
        guest: its name.
    """

    def __init__(self, guest: str) -> None:
        self._guest = guest
        self._heard: list[_Heard] = []
        self._stop: list[Callable[[], object]] = []

    def listen(self, connection: libvirt.virConnect) -> None:
        """Begin to listen; where libvirt does not let us, nothing is heard."""
        for event in EVENTS:
            with contextlib.suppress(libvirt.libvirtError):
                number = libvirt_qemu.qemuMonitorEventRegister(connection, None, event, self._hear, None)
                self._stop.append(functools.partial(libvirt_qemu.qemuMonitorEventDeregister, connection, number))

    def close(self) -> None:
        """Listen no more. May be repeated."""
        while self._stop:
            with contextlib.suppress(libvirt.libvirtError):  # the connection is gone, and with it whom it told
                self._stop.pop()()

    def moment_ms(self, *, what: frozenset[str]) -> int | None:
        """When the last of these was, on our monotonic clock; ``None``: it was not heard."""
        heard = list(self._heard)
        stamp_ms = max((one.stamp_ms for one in heard if one.what in what), default=None)
        if stamp_ms is None:
            return None
        return stamp_ms + min(one.arrived_ms - one.stamp_ms for one in heard)

    def _hear(
        self, _: libvirt.virConnect, domain: libvirt.virDomain, event: str, seconds: int, micros: int, details: str, opaque: None
    ) -> None:
        """Called in libvirt's event loop."""
        del opaque
        if domain.name() != self._guest:
            return
        what = event
        if event == "MIGRATION":
            with contextlib.suppress(ValueError, AttributeError):
                what = str(json.loads(details).get("status"))
        now_ms = time.monotonic_ns() // 1_000_000
        self._heard.append(_Heard(what=what, stamp_ms=seconds * 1000 + micros // 1000, arrived_ms=now_ms))


def moments(source: Ear, destination: Ear) -> Moments:
    """What both have heard of the switchover. In post-copy the destination may go on long before the source has completed."""
    postcopy_ms = source.moment_ms(what=frozenset({"postcopy-active"}))
    return Moments(
        stopped_ms=source.moment_ms(what=frozenset({"STOP"})),
        arrived_ms=source.moment_ms(what=frozenset({"completed"})) if postcopy_ms is None else postcopy_ms,
        resumed_ms=destination.moment_ms(what=frozenset({"RESUME"})),
    )
