"""Who may do what on the destination: locked memory, the user who is logged in, the address of libvirt; facts → findings."""

from __future__ import annotations

from dataclasses import replace

import pytest

from segue.core.capabilities import NEEDED
from segue.core.model import DriverKind, Limits
from segue.core.preflight import judge
from segue.core.preflight.facts import Facts, HostMemory, Path
from segue.core.preflight.findings import Severity
from segue.core.wishes import LibvirtWishes
from tests.unit.preflight.facts import CLEAN, OFFER, PAIR, PARTS, PATH, said

B, W, U = Severity.BLOCKER, Severity.WARNING, Severity.UNCHECKED
BARE = replace(CLEAN, spec=replace(CLEAN.spec, driver=DriverKind.QEMU))
GIB = 1 << 30


def locking(lock_bytes: int | None, *, locked: bool = True) -> Facts:
    memory = HostMemory(available_bytes=2 * GIB, lock_bytes=lock_bytes)
    return replace(BARE, parts=replace(PARTS, memory=replace(PARTS.memory, locked=locked)), offer=replace(OFFER, memory=memory))


def rdma(limit_bytes: int) -> Facts:
    spec = replace(CLEAN.spec, libvirt=LibvirtWishes(migration_uri="rdma://beta"))
    return replace(CLEAN, spec=spec, parts=replace(PARTS, memory=replace(PARTS.memory, limit_bytes=limit_bytes)))


def run_as(user: str, *, logins: tuple[str, str]) -> Facts:
    here, there = (replace(end, user=login) for end, login in zip((PAIR.source, PAIR.destination), logins, strict=True))
    path = replace(PATH, pair=replace(PAIR, source=here, destination=there))
    return replace(BARE, parts=replace(PARTS, user=user), path=path)


def by(uri: str) -> Facts:
    return replace(CLEAN, path=replace(PATH, pair=replace(PAIR, there=(replace(PAIR.there[0], uri=uri),))))


@pytest.mark.parametrize(
    ("facts", "found"),
    [
        (locking(8 << 20), [("memory-lock", B)]),
        (locking(GIB), [("memory-lock", B)]),  # QEMU maps more than the guest's memory, and locks that, too
        (locking(2 * GIB), []),
        (locking(None), []),
        (locking(8 << 20, locked=False), []),
        (rdma(0), [("memory-lock", B)]),
        (rdma(2 * GIB), []),
        (run_as("", logins=("root", "root")), []),
        (run_as("qemu", logins=("root", "root")), []),
        (run_as("qemu", logins=("root", "qemu")), []),
        (run_as("qemu", logins=("root", "adam")), [("user-rights", B)]),
        (run_as("", logins=("qemu", "adam")), [("user-rights", W)]),
        (run_as("", logins=("qemu", "root")), [("user-rights", W)]),
        (by("qemu+ssh://beta/system"), []),
        (by("qemu+ssh://beta/session"), [("user-rights", W)]),
        (by("qemu+ssh://beta/system?socket=/run/libvirt/libvirt-sock-ro"), [("user-rights", B)]),
        (by("qemu+ssh://beta/system?socket=/run/libvirt/libvirt-sock"), []),
    ],
)
def test_what_is_found(facts: Facts, found: list[tuple[str, Severity]]) -> None:
    assert said(facts) == found
    assert all(one.fix and one.seen for one in judge(facts))


KNOWN = frozenset(NEEDED)


@pytest.mark.parametrize(
    ("here", "there", "found"),
    [
        (KNOWN, KNOWN, []),
        (KNOWN, KNOWN - {"postcopy-ram"}, [("capabilities", B)]),
        (KNOWN - {"multifd"}, KNOWN, []),
        (KNOWN, None, [("capabilities", U)]),
    ],
)
def test_both_qemus_know_what_was_asked_for(
    here: frozenset[str], there: frozenset[str] | None, found: list[tuple[str, Severity]]
) -> None:
    facts = replace(
        CLEAN,
        spec=replace(CLEAN.spec, driver=DriverKind.QEMU, limits=Limits(postcopy=True)),
        parts=replace(PARTS, capabilities=here),
        offer=replace(OFFER, capabilities=there),
    )
    assert [one for one in said(facts) if one[0] == "capabilities"] == found


@pytest.mark.parametrize(("user", "login", "found"), [("qemu", "root", True), ("", "adam", True), ("", "root", False)])
def test_a_bare_guest_does_post_copy_there_as_whom_it_runs_here(user: str, login: str, found: bool) -> None:
    facts = run_as(user, logins=(login, login))
    assert isinstance(facts.path, Path)
    spec = replace(facts.spec, limits=Limits(postcopy=True))
    ground = replace(facts.path.there, userfault=False)
    facts = replace(facts, spec=spec, path=replace(facts.path, there=ground))
    assert (("postcopy-rights", W) in said(facts)) is found
