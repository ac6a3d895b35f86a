"""What cannot be asked for together is refused with words, and everything else is let through."""

from __future__ import annotations

import itertools

import pytest

from segue.core import combinations
from segue.core.model import Control, DriverKind, HostAddress, Limits, MigrationSpec, Transport
from segue.core.storage import CopyStorage, CopyWish
from segue.errors import Unsupported

QEMU, LIBVIRT = DriverKind.QEMU, DriverKind.LIBVIRT
URIS = {QEMU: "qmp+ssh://beta/", LIBVIRT: "qemu+tls://beta/system"}


def asked(
    driver: DriverKind,
    control: Control = Control.DIRECT,
    transport: Transport = Transport.NATIVE,
    connections: int = 1,
    *,
    postcopy: bool = False,
    uri: str = "",
    ports: tuple[int, int] | None = None,
    disks: CopyWish | None = None,
    overrides: tuple[tuple[str, str], ...] = (),
) -> tuple[MigrationSpec, HostAddress]:
    spec = MigrationSpec(
        id="1",
        guest="web1",
        source="alpha",
        destination="beta",
        driver=driver,
        control=control,
        transport=transport,
        connections=connections,
        limits=Limits(postcopy=postcopy),
        disks=disks,
        overrides=overrides,
    )
    return spec, HostAddress(name="beta", uri=uri or URIS[driver], driver=driver, migration_ports=ports)


REFUSED = [
    (asked(LIBVIRT, Control.P2P, uri="qemu:///system"), "qemu:///system is not one"),
    (asked(LIBVIRT, transport=Transport.TUNNELLED), "only when the source's daemon"),
    (asked(LIBVIRT, Control.P2P, Transport.TUNNELLED, postcopy=True), "post-copy through its tunnel"),
    (asked(LIBVIRT, Control.P2P, Transport.TUNNELLED, 2), "one connection"),
    (asked(LIBVIRT, transport=Transport.TLS_PSK), "certificates only"),
    (asked(LIBVIRT, ports=(1000, 1001)), "qemu.conf"),
    (asked(QEMU, transport=Transport.TUNNELLED, ports=(1000, 1001)), "listens on no port"),
    (asked(QEMU, connections=2, postcopy=True), "does not go with several"),
    (asked(LIBVIRT, disks=CopyWish(how=CopyStorage.ALL)), "libvirt's guests yet, and web1 is one"),
    (asked(LIBVIRT, overrides=(("vnc", ":1"),)), "does not change the definition"),
    (asked(QEMU, disks=CopyWish(how=CopyStorage.ALL), overrides=(("disk.a", "/b"),)), "either copied or found"),
    (asked(QEMU, transport=Transport.TLS, disks=CopyWish(how=CopyStorage.ALL)), "Disks are copied in the clear"),
]


@pytest.mark.parametrize(("words", "said"), REFUSED, ids=[said for _, said in REFUSED])
def test_it_is_refused_in_words(words: tuple[MigrationSpec, HostAddress], said: str):
    with pytest.raises(Unsupported, match=said) as refused:
        combinations.refuse(*words)
    assert refused.value.hint
    assert "nothing was touched" in refused.value.guest_at
    assert "{" not in str(refused.value)


def test_every_rule_is_provoked():
    assert {rule for rule in combinations.RULES if any(rule.applies(*words) for words, _ in REFUSED)} == set(combinations.RULES)


def test_what_works_is_let_through():
    for driver, transport, connections in itertools.product([QEMU, LIBVIRT], Transport, [1, 4]):
        control = Control.P2P if driver is LIBVIRT and transport is Transport.TUNNELLED else Control.DIRECT
        words = asked(driver, control, transport, connections)
        if driver is LIBVIRT and (transport is Transport.TLS_PSK or (transport is Transport.TUNNELLED and connections > 1)):
            continue
        combinations.refuse(*words)
