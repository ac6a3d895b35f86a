"""Theme devices: facts → findings."""

from __future__ import annotations

from dataclasses import replace

import pytest

from segue.core.files import Seen
from segue.core.mends import MendKind
from segue.core.model import DriverKind
from segue.core.preflight import judge
from segue.core.preflight.facts import Facts, Files, Kind, Part, Unseen
from segue.core.preflight.findings import Severity
from tests.unit.preflight.facts import CLEAN, FILES, OFFER, PARTS, said

B, W, U = Severity.BLOCKER, Severity.WARNING, Severity.UNCHECKED

MEDIUM = "/srv/install.iso"
NO_FILES = Unseen(host="beta", why="no shell")


def having(*devices: Part, files: Files | Unseen = FILES, **changes: object) -> Facts:
    parts = replace(PARTS, devices=devices, **changes)  # type: ignore[arg-type]
    return replace(CLEAN, parts=parts, files=files)


def bare(facts: Facts) -> Facts:
    return replace(facts, spec=replace(facts.spec, driver=DriverKind.QEMU))


def part(kind: Kind, **more: object) -> Part:
    return Part(kind=kind, name="thing0", what="0000:01:00.0", **more)  # type: ignore[arg-type]


VNC = part(Kind.VNC, ports=(5901,))
CDROM = Part(kind=Kind.CDROM, name="sda", what=MEDIUM, path=MEDIUM)


@pytest.mark.parametrize(
    ("facts", "found"),
    [
        (having(part(Kind.PCI)), [("pci-device", B)]),
        (bare(having(part(Kind.PCI), blocked=())), []),  # QEMU was asked, and can move it
        (having(part(Kind.PCI, failover=True)), []),
        (having(part(Kind.VF)), [("sriov", B)]),
        (having(part(Kind.MDEV)), [("mdev", B)]),
        (having(part(Kind.USB)), [("usb-host", B)]),
        (having(part(Kind.SCSI)), [("scsi-host", B)]),
        (having(part(Kind.LUN)), [("block-passthrough", W)]),
        (having(part(Kind.SHMEM)), [("shmem", B)]),
        (having(part(Kind.VHOST_USER)), [("vhost-user", W)]),
        (having(part(Kind.VIRTIOFS)), [("virtiofs", B)]),
        (having(part(Kind.P9)), [("9p", W)]),
        (having(part(Kind.VSOCK)), [("vsock", W)]),
        (having(part(Kind.TPM)), []),
        (bare(having(part(Kind.TPM))), [("tpm-state", W)]),
        (having(part(Kind.TPM_HOST)), [("tpm-host", B)]),
        (having(CDROM), [("cdrom-missing", B)]),
        (having(replace(CDROM, kind=Kind.FLOPPY)), [("floppy-missing", B)]),
        (having(CDROM, files=replace(FILES, there={**FILES.there, MEDIUM: Seen(identity="1:2")})), []),
        (
            having(CDROM, files=replace(FILES, there={**FILES.there, MEDIUM: Seen(identity="1:2", may_read=False)})),
            [("cdrom-missing", B)],
        ),
        (having(VNC), []),
        (having(VNC, files=replace(FILES, listening=frozenset({5901}))), [("display-port", B)]),
        (bare(having(VNC, files=replace(FILES, listening=frozenset({5901})))), []),  # it gives way to the next free one
        (having(replace(VNC, listens="10.0.0.1")), []),  # nobody said which addresses there are
        (
            having(replace(VNC, listens="10.0.0.1"), files=replace(FILES, addresses=frozenset({"10.0.0.2"}))),
            [("display-address", B)],
        ),
        (having(replace(VNC, listens="10.0.0.1"), files=replace(FILES, addresses=frozenset({"10.0.0.1"}))), []),
        (having(replace(VNC, listens="0.0.0.0")), []),  # noqa: S104  # read, not bound
        (bare(having(replace(VNC, password=True))), [("display-password", W)]),
        (having(replace(VNC, valid_until="2020-01-01T00:00:00", expired=True)), [("display-password", Severity.NOTE)]),
        (having(replace(VNC, valid_until="2120-01-01T00:00:00")), []),
        (having(part(Kind.OUTPUT, path="/var/log/vm/web.log")), [("output-directory", B)]),
        (having(blocked=("VirtFS export path '/srv' is mounted",)), [("qemu-blocks", B)]),
        (having(types=frozenset({"virtio-net-pci"})), []),
    ],
)
def test_what_is_found(facts: Facts, found: list[tuple[str, Severity]]) -> None:
    assert said(facts) == found
    assert all(one.fix and one.seen for one in judge(facts))


def test_a_device_that_the_destination_does_not_know_is_named() -> None:
    facts = having(types=frozenset({"virtio-net-pci", "new-thing"}))
    [one] = judge(replace(facts, offer=replace(OFFER, types=frozenset({"virtio-net-pci"}))))
    assert (one.code, one.severity) == ("device-unknown", B)
    assert "new-thing" in one.sentence
    assert "virtio" not in one.sentence


def test_what_segue_can_do_by_itself_is_said_with_the_finding() -> None:
    mends = {one.code: one.mend for one in judge(having(part(Kind.USB), CDROM, part(Kind.OUTPUT, path="/x/y.log"))) if one.mend}
    assert {code: mend.kind for code, mend in mends.items()} == {
        "usb-host": MendKind.DETACH,
        "cdrom-missing": MendKind.EJECT,
        "output-directory": MendKind.MAKE_DIRECTORY,
    }


def test_without_a_shell_what_depends_on_files_is_unchecked() -> None:
    found = said(having(CDROM, VNC, part(Kind.OUTPUT, path="/x/y.log"), files=NO_FILES))
    assert {("cdrom-missing", U), ("display-port", U), ("output-directory", U)} <= set(found)
    assert all(severity is U for _, severity in found)
