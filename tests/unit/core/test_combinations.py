"""What cannot be asked for together is refused with words, and everything else is let through."""

from __future__ import annotations

import itertools

import pytest

from segue.core import combinations
from segue.core.model import Control, DriverKind, HostAddress, Limits, MigrationSpec, Transport
from segue.core.storage import CopyStorage, CopyWish
from segue.core.wishes import LibvirtWishes

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
    persist: bool | None = None,
    auto_converge: bool = True,
    **wishes: object,
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
        persist=persist,
        limits=Limits(postcopy=postcopy, auto_converge=auto_converge),
        disks=disks,
        overrides=overrides,
        libvirt=LibvirtWishes(**wishes),  # type: ignore[arg-type]  # each test names a field with its value
    )
    return spec, HostAddress(name="beta", uri=uri or URIS[driver], driver=driver, migration_ports=ports)


COPIED = CopyWish(how=CopyStorage.ALL)
REFUSED = [
    (asked(LIBVIRT, Control.P2P, uri="qemu:///system"), "qemu:///system is not one"),
    (asked(LIBVIRT, transport=Transport.TUNNELLED), "only when the source's daemon"),
    (asked(LIBVIRT, Control.P2P, Transport.TUNNELLED, postcopy=True), "post-copy through its tunnel"),
    (asked(LIBVIRT, Control.P2P, Transport.TUNNELLED, 2), "one connection"),
    (asked(LIBVIRT, transport=Transport.TLS_PSK), "certificates only"),
    (asked(LIBVIRT, ports=(1000, 1001)), "qemu.conf"),
    (asked(QEMU, transport=Transport.TUNNELLED, ports=(1000, 1001)), "listens on no port"),
    (asked(QEMU, connections=2, postcopy=True), "does not go with several"),
    (asked(LIBVIRT, Control.P2P, Transport.TUNNELLED, disks=CopyWish(how=CopyStorage.ALL)), "no disks through its tunnel"),
    (asked(LIBVIRT, disks=CopyWish(how=CopyStorage.ALL, limit_bps=1)), "one limit for memory and for disks"),
    (asked(QEMU, disks=CopyWish(how=CopyStorage.ALL), overrides=(("disk.a", "/b"),)), "either copied or found"),
    (asked(QEMU, transport=Transport.TLS, disks=CopyWish(how=CopyStorage.ALL)), "Disks are copied in the clear"),
    (asked(QEMU, rename="web2"), "rename: only libvirt knows that"),
    (asked(QEMU, compression=("zlib", "zstd"), connections=2), "by one of"),
    (asked(LIBVIRT, Control.UNMANAGED), "no unmanaged migration"),
    (asked(LIBVIRT, offline=True, persist=False), "has to be kept on the destination"),
    (asked(LIBVIRT, offline=True, disks=COPIED), "with --offline no disk moves"),
    (asked(LIBVIRT, offline=True, transport=Transport.TLS), "no memory moves"),
    (asked(LIBVIRT, offline=True, suspend=True), "is for guests that run"),
    (asked(LIBVIRT, suspend=True, postcopy=True), "arrive standing still"),
    (asked(LIBVIRT, zero_copy=True), "only over several connections"),
    (asked(LIBVIRT, zero_copy=True, connections=2, transport=Transport.TLS), "does not go with TLS"),
    (asked(LIBVIRT, zero_copy=True, connections=2, compression=("zstd",)), "does not go with compression"),
    (asked(LIBVIRT, compression=("gzip",)), "by nothing else"),
    (asked(LIBVIRT, compression=("zstd",)), "several connections"),
    (asked(LIBVIRT, compression=("xbzrle",), connections=2), "by zlib or zstd only"),
    (asked(LIBVIRT, xbzrle_cache_bytes=1), "xbzrle-cache: that tunes a method"),
    (asked(LIBVIRT, throttle_initial_percent=30, auto_converge=False), "no throttle to set"),
    (asked(LIBVIRT, postcopy_bandwidth_bps=1), "needs post-copy"),
    (asked(LIBVIRT, migration_uri="tcp://beta", ports=(1000, 1000)), "said twice"),
    (asked(LIBVIRT, Control.P2P, Transport.TUNNELLED, listen_address="10.0.0.1"), "listens on no address"),
    (asked(LIBVIRT, tls_destination="beta"), "needs TLS"),
    (asked(LIBVIRT, rdma_pin_all=True), "only where it goes over RDMA"),
    (asked(LIBVIRT, migration_uri="rdma://beta", connections=2), "over one connection"),
    (asked(LIBVIRT, copied_disks=("vda",)), "no disks are to be copied"),
    (asked(LIBVIRT, disks=COPIED, copied_disks=("vda",), detect_zeroes=("vdb",)), "that is not copied"),
    (asked(LIBVIRT, disks=CopyWish(how=CopyStorage.ALL, port=1), disks_uri="tcp://beta"), "disks are sent is said twice"),
    (asked(LIBVIRT, xml="<domain/>", overrides=(("disk.vda", "/a"),)), "given whole or changed in parts"),
    (asked(LIBVIRT, persistent_xml="<domain/>", persist=False), "none is to be kept"),
]


@pytest.mark.parametrize(("words", "said"), REFUSED, ids=[said for _, said in REFUSED])
def test_it_is_refused_in_words(words: tuple[MigrationSpec, HostAddress], said: str):
    found = combinations.objections(*words)
    assert any(said in one.sentence for one in found), found
    assert all(one.fix and one.seen.what for one in found)
    assert "{" not in str(found)


def test_every_rule_is_provoked():
    assert {rule for rule in combinations.RULES if any(rule.applies(*words) for words, _ in REFUSED)} == set(combinations.RULES)


def test_a_bare_qemu_compresses_too():
    for words in (
        asked(QEMU, compression=("xbzrle",), xbzrle_cache_bytes=1 << 26),
        asked(QEMU, compression=("zstd",), zstd_level=3, connections=2),
    ):
        assert combinations.objections(*words) == ()


def test_what_works_is_let_through():
    for driver, transport, connections in itertools.product([QEMU, LIBVIRT], Transport, [1, 4]):
        control = Control.P2P if driver is LIBVIRT and transport is Transport.TUNNELLED else Control.DIRECT
        words = asked(driver, control, transport, connections)
        if driver is LIBVIRT and (transport is Transport.TLS_PSK or (transport is Transport.TUNNELLED and connections > 1)):
            continue
        assert combinations.objections(*words) == ()
