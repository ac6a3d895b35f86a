"""How the findings about network and control are provoked: by what is between the two hosts of a lab.

What may live here: data, as in `cases`.
"""

from __future__ import annotations

from typing import Final

from tests.findings.cases import ALL, Case, Command


def _rule(verb: str, ports: str) -> tuple[Command, ...]:
    """A firewall of beta's that only alpha meets."""
    return (("beta", f"iptables -{verb} INPUT -p tcp -s 10.77.0.11 --dport {ports} -j REJECT --reject-with tcp-reset"),)


_BRIDGE: Final = (("alpha", "ip link add br7 type bridge && echo allow br7 >>/etc/qemu/bridge.conf"),)
_NO_BRIDGE: Final = (("alpha", "ip link delete br7"),)
_LAN: Final = '<network><name>lan</name><forward mode=\\"bridge\\"/><bridge name=\\"br0\\"/></network>'
_SAME_MAC: Final = "52:54:00:77:7f:09"

NETWORK: Final = (
    Case(
        code="bridge-missing",
        kind="libvirt",
        parts="<interface type='bridge'><source bridge='br7'/></interface>",
        before=_BRIDGE,
        undo=_NO_BRIDGE,
    ),
    Case(
        code="bridge-missing",
        kind="qemu",
        parts="-netdev bridge,id=net0,br=br7 -device virtio-net-pci,netdev=net0,romfile=",
        before=_BRIDGE,
        undo=_NO_BRIDGE,
    ),
    Case(
        code="network-missing",
        kind="libvirt",
        parts="<interface type='network'><source network='lan'/></interface>",
        before=(("alpha", f'echo "{_LAN}" >/run/lan.xml && virsh -q net-create /run/lan.xml'),),
        undo=(("alpha", "virsh -q net-destroy lan"),),
    ),
    Case(
        code="bridge-mtu",
        kind="libvirt",
        severity="warning",
        parts="<interface type='bridge'><source bridge='br0'/></interface>",
        after=(("beta", "ip link set br0 mtu 1400"),),
        undo=(("beta", "ip link set br0 mtu 1500"),),
    ),
    Case(
        code="mac-taken",
        kind="libvirt",
        parts=f"<interface type='bridge'><mac address='{_SAME_MAC}'/><source bridge='br0'/></interface>",
        after=(
            (
                "beta",
                "qemu-system-x86_64 -S -M pc,accel=tcg -m 16 -nodefaults -display none -daemonize -pidfile /run/other.pid"
                f" -netdev user,id=n -device virtio-net-pci,netdev=n,romfile=,mac={_SAME_MAC}",
            ),
        ),
        undo=(("beta", "kill $(cat /run/other.pid)"),),
    ),
    Case(code="data-port", kind="libvirt", after=_rule("A", "49152:49215"), undo=_rule("D", "49152:49215")),
)

EVERY: Final = (*ALL, *NETWORK)
"""With what is in the guests themselves."""
