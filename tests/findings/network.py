"""How the findings about network and control are provoked: by what is between the two hosts of a lab.

What may live here: data, as in `cases`.
"""

from __future__ import annotations

from typing import Final

from tests.findings.around import AROUND, slowly
from tests.findings.cases import ALL, CLOSE, OPEN, QEMU, Case, Command


def _rule(verb: str, ports: str) -> tuple[Command, ...]:
    """A firewall of beta's that only alpha meets."""
    return (("beta", f"iptables -{verb} INPUT -p tcp -s 10.77.0.11 --dport {ports} -j REJECT --reject-with tcp-reset"),)


_BRIDGE: Final = (("alpha", "ip link add br7 type bridge && echo allow br7 >>/etc/qemu/bridge.conf"),)
_NO_BRIDGE: Final = (("alpha", "ip link delete br7"),)
_LAN: Final = '<network><name>lan</name><forward mode=\\"bridge\\"/><bridge name=\\"br0\\"/></network>'
_SAME_MAC: Final = "52:54:00:77:7f:09"
_OTHER: Final = (
    (
        "beta",
        "qemu-system-x86_64 -S -M pc,accel=tcg -m 16 -nodefaults -display none -daemonize -pidfile /run/other.pid"
        f" -netdev user,id=n -device virtio-net-pci,netdev=n,romfile=,mac={_SAME_MAC}",
    ),
)
_NO_OTHER: Final = (("beta", "kill $(cat /run/other.pid)"),)

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
        after=_OTHER,
        undo=_NO_OTHER,
    ),
    Case(
        code="bridge-mtu",
        kind="qemu",
        severity="warning",
        parts="-netdev bridge,id=net0,br=br0 -device virtio-net-pci,netdev=net0,romfile=",
        after=(("beta", "ip link set br0 mtu 1400"),),
        undo=(("beta", "ip link set br0 mtu 1500"),),
    ),
    Case(
        code="mac-taken",
        kind="qemu",
        parts=f"-netdev bridge,id=net0,br=br0 -device virtio-net-pci,netdev=net0,romfile=,mac={_SAME_MAC}",
        after=_OTHER,
        undo=_NO_OTHER,
    ),
    Case(code="data-port", kind="libvirt", after=_rule("A", "49152:49215"), undo=_rule("D", "49152:49215")),
    Case(code="data-port", kind="qemu", after=_rule("A", "1024:65535"), undo=_rule("D", "1024:65535")),
)

_NAMELESS: Final = (("alpha", "cp /etc/hosts /run/hosts && sed '/ beta$/d' /run/hosts >/etc/hosts"),)
_NAMED: Final = (("alpha", "cat /run/hosts >/etc/hosts"),)
_A_LOGIN: Final = (("beta", "cp /etc/passwd /run/passwd && sed '/^nobody:/s,[^:]*$,/bin/sh,' /run/passwd >/etc/passwd"),)
_NO_LOGIN: Final = (("beta", "cat /run/passwd >/etc/passwd"),)

CONTROL: Final = (
    Case(
        code="path-mtu",
        kind="libvirt",
        severity="warning",
        after=(("beta", "ip link set up0 mtu 1400"),),
        undo=(("beta", "ip link set up0 mtu 1500"),),
    ),
    Case(
        code="path-mtu",
        kind="qemu",
        severity="warning",
        after=(("beta", "ip link set up0 mtu 1400"),),
        undo=(("beta", "ip link set up0 mtu 1500"),),
    ),
    Case(code="link-speed", kind="libvirt", severity="warning", after=slowly("add"), undo=slowly("del")),
    Case(code="link-speed", kind="qemu", severity="warning", after=slowly("add"), undo=slowly("del")),
    Case(
        code="keepalive",
        kind="libvirt",
        severity="warning",
        after=(("beta", "echo 'keepalive_interval = -1' >>/etc/libvirt/libvirtd.conf"),),
        undo=(("beta", "sed -i '/^keepalive_interval = -1$/d' /etc/libvirt/libvirtd.conf"),),
    ),
    Case(code="names", kind="libvirt", words="--control p2p", after=_NAMELESS, undo=_NAMED),
    Case(code="p2p", kind="libvirt", words="--control p2p", after=_rule("A", "16509"), undo=_rule("D", "16509")),
    Case(code="tls-handshake", kind="libvirt", words="--transport tls"),
    Case(code="tls-handshake", kind="qemu", words="--transport tls"),
    Case(code="user-rights", kind="libvirt", address="qemu+ssh://beta/system?socket=/run/libvirt/libvirt-sock-ro"),
    Case(
        code="user-rights",
        kind="qemu",
        program=f"setpriv --reuid=1 --regid=1 --clear-groups {QEMU}",
        address="qmp+ssh://nobody@beta/",
        before=(*_A_LOGIN, *OPEN),
        undo=(*_NO_LOGIN, *CLOSE),
    ),
)

EVERY: Final = (*ALL, *AROUND, *NETWORK, *CONTROL)
"""With what is in the guests themselves."""
