"""The lab's network: a switch in a namespace of its own, one uplink to it for every host, and what makes a link slow or dead.

    host: guests' taps ─ br0 ─ up0 ══ veth ══ <host> ─ lab0 (bridge) in the namespace "switch"
    admin, storage: up0 ══ veth ══ <name> ─ lab0

A link is shaped by `tc tbf` at both ends, so that each direction has the rate by itself, with fq_codel inside where the kernel
has it: a bulk transfer then does not starve the small packets that probe a guest. A cut link is a disabled bridge port: packets
vanish in both directions, no carrier is lost and nobody is told, as with a cable pulled somewhere in the middle.

What may live here: calls of `ip`, `tc` and `bridge`. Nothing is ever made in the namespace of the user.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Final

from segue import units
from segue.errors import CommandFailed, LabError
from segue.lab.layout import ADMIN, BRIDGE, STORAGE, SWITCH, UPLINK, Layout, address, uplink_mac
from segue.lab.shell import run

SWITCH_BRIDGE: Final = "lab0"
_TBF_LATENCY: Final = "50ms"
_MIN_BURST_BYTES: Final = 128 * units.KIB  # two of the largest packets that segmentation offload hands to a veth
_PORT_DISABLED: Final = "0"  # linux/if_bridge.h, BR_STATE_DISABLED
_PORT_FORWARDING: Final = "3"


async def add_namespaces(layout: Layout, hosts: Iterable[str], *, lock: int) -> None:
    """Make the network namespaces of the switch and of all hosts.

    Args:
        layout: of the lab.
        hosts: all of them.
        lock: the lab's lock, which each command holds until its namespace is there.

    Raises:
        LabError: this machine does not allow it.
    """
    for host in (SWITCH, *hosts):
        try:
            await run(["ip", "netns", "add", layout.netns(host)], pass_fds=(lock,))
        except CommandFailed as error:
            raise LabError(
                f"A network namespace cannot be made here: {error.stderr.strip()}.",
                hint="The lab needs a machine, or a privileged container, that may make network namespaces.",
            ) from error


async def wire(layout: Layout, hosts: Iterable[str]) -> None:
    """Make the switch and connect every host to it."""
    hosts = tuple(hosts)
    switch = [
        "link set lo up",
        f"link add {SWITCH_BRIDGE} type bridge stp_state 0 forward_delay 0 mcast_snooping 0",
        f"link set {SWITCH_BRIDGE} up",
    ]
    for host in hosts:
        switch += [
            f"link add {host} type veth peer name {UPLINK} netns {layout.netns(host)}",
            f"link set {host} master {SWITCH_BRIDGE} up",
        ]
    await _ip(layout, SWITCH, switch)
    for host in hosts:
        await _ip(layout, host, _inside(host))


def _inside(host: str) -> list[str]:
    """What `ip` is told inside a host's namespace: guests of a host need a bridge to plug into."""
    lines = ["link set lo up", f"link set {UPLINK} address {uplink_mac(host)}"]
    carrier = UPLINK
    if host not in (ADMIN, STORAGE):
        carrier = BRIDGE
        lines += [
            f"link add {BRIDGE} type bridge stp_state 0 forward_delay 0 mcast_snooping 0",
            f"link set {UPLINK} master {BRIDGE}",
            f"link set {BRIDGE} up",
        ]
    return [*lines, f"addr add {address(host)}/24 dev {carrier}", f"link set {UPLINK} up", f"link set {carrier} up"]


async def _ip(layout: Layout, host: str, lines: list[str]) -> None:
    await run(["ip", "-netns", layout.netns(host), "-batch", "-"], stdin="\n".join(lines) + "\n")


async def shape(layout: Layout, host: str, rate_bps: int | None) -> None:
    """Give a host's link that many bytes per second in each direction; ``None``: as fast as the machine."""
    for netns, device in ((layout.netns(SWITCH), host), (layout.netns(host), UPLINK)):
        tc = ["tc", "-netns", netns, "qdisc"]
        await run([*tc, "del", "dev", device, "root"], check=False)
        if rate_bps is None:
            continue
        burst = max(_MIN_BURST_BYTES, rate_bps // 250)  # what a timer tick of 4 ms lets through
        tbf = ["tbf", "rate", f"{rate_bps * 8}bit", "burst", str(burst), "latency", _TBF_LATENCY]
        await run([*tc, "add", "dev", device, "root", "handle", "1:", *tbf])
        await run([*tc, "add", "dev", device, "parent", "1:1", "handle", "10:", "fq_codel"], check=False)


async def cut(layout: Layout, host: str) -> None:
    """Let every packet from and to the host vanish."""
    await _port(layout, host, _PORT_DISABLED)


async def heal(layout: Layout, host: str) -> None:
    """Let packets through again, at the rate that was set."""
    await _port(layout, host, _PORT_FORWARDING)


async def cuts(layout: Layout) -> set[str]:
    """The hosts whose link is cut now, as the switch has it."""
    said = await run(["bridge", "-netns", layout.netns(SWITCH), "-json", "link", "show"])
    return {port["ifname"] for port in json.loads(said.stdout or "[]") if port.get("state") == "disabled"}


async def _port(layout: Layout, host: str, state: str) -> None:
    await run(["bridge", "-netns", layout.netns(SWITCH), "link", "set", "dev", host, "state", state])
