"""Theme guest: facts → findings."""

from __future__ import annotations

from dataclasses import replace

import pytest

from segue.core.evidence import Sighting
from segue.core.model import DriverKind, GuestState
from segue.core.preflight import fine, judge, verdict
from segue.core.preflight.facts import Facts, Objection, Standing, Unseen
from segue.core.preflight.findings import Seen, Severity, Verdict
from segue.core.storage import CopyStorage, CopyWish
from segue.core.wishes import LibvirtWishes
from segue.engine.preflight import accepting
from segue.errors import UsageError
from tests.unit.preflight.facts import CLEAN, HERE, RUNNING, THERE, absent, said

B, W, N, U = Severity.BLOCKER, Severity.WARNING, Severity.NOTE, Severity.UNCHECKED


NO_PART = Objection(sentence="The guest has no part 'disk.vdz'.", seen=Seen(host="alpha", what="its definition"), fix="Leave it.")


def standing(**changes: object) -> Facts:
    return replace(CLEAN, standing=replace(RUNNING, **changes))  # type: ignore[arg-type]


def bare(facts: Facts, *, copied: bool = False) -> Facts:
    disks = CopyWish(how=CopyStorage.ALL) if copied else None
    return replace(facts, spec=replace(facts.spec, driver=DriverKind.QEMU, disks=disks))


@pytest.mark.parametrize(
    ("facts", "found"),
    [
        (standing(state=GuestState.PAUSED), [("guest-not-running", B)]),
        (standing(state=GuestState.SHUT_OFF), [("guest-not-running", B)]),
        (standing(state=GuestState.UNKNOWN), [("guest-not-running", B)]),
        (standing(state=GuestState.MIGRATING_OUT), [("guest-busy", B)]),
        (standing(job="block copy of vda"), [("guest-busy", B)]),
        (standing(state=GuestState.PAUSED, io_errors=("vda (no space left)",)), [("io-error", B)]),
        (standing(snapshots=("monday",)), [("snapshots", N)]),
        (bare(standing(snapshots=("monday",))), []),  # they are in its disks, which both hosts see
        (bare(standing(snapshots=("monday",)), copied=True), [("snapshots", W)]),
        (standing(checkpoints=("monday",)), [("checkpoints", N)]),
        (standing(managed_save=True), [("managed-save", W)]),
        (standing(autostart=True), [("autostart", N)]),
        (replace(CLEAN, guest=replace(CLEAN.guest, obstacle="It has no monitor.")), [("unsupported", B)]),
        (replace(CLEAN, objections=(NO_PART, replace(NO_PART, code="unsupported"))), [("asked", B), ("unsupported", B)]),
        (replace(CLEAN, destination=replace(THERE, identity=HERE.identity)), [("same-host", B)]),
        (replace(CLEAN, destination=replace(THERE, sighting=absent(Sighting.RUNNING))), [("destination-taken", B)]),
        (replace(CLEAN, destination=replace(THERE, sighting=absent(Sighting.DEFINED))), []),
        (CLEAN, []),
    ],
)
def test_what_is_found(facts: Facts, found: list[tuple[str, Severity]]) -> None:
    assert said(facts) == found
    assert all(one.seen and one.sentence for one in judge(facts))


def test_what_cannot_be_seen_is_not_fine() -> None:
    facts = replace(CLEAN, standing=Unseen(host="alpha", why="no answer within 8 s"))
    assert ("snapshots", U) in said(facts)
    assert not {code for code, _ in said(facts)} & set(fine(facts, judge(facts)))


def test_what_was_asked_for_in_vain_can_be_left_out_and_not_forced() -> None:
    facts = replace(CLEAN, objections=(NO_PART,))
    assert verdict(judge(facts)) is Verdict.AFTER_FIXES
    with pytest.raises(UsageError, match="there is no way to do it"):
        accepting(("asked",))
    unseen = replace(CLEAN, objections=Unseen(host="alpha", why="no answer within 8 s"))
    assert said(unseen) == [("asked", U)]


def test_the_definition_of_a_guest_that_runs_is_not_moved_alone() -> None:
    facts = replace(CLEAN, spec=replace(CLEAN.spec, libvirt=LibvirtWishes(offline=True)))
    assert said(facts) == [("asked", B)]


def test_everything_is_told_at_once_the_gravest_first() -> None:
    facts = standing(state=GuestState.PAUSED, job="backup", snapshots=("monday",), autostart=True)
    assert [severity for _, severity in said(facts)] == [B, B, N, N]


def test_a_clean_pair_has_nothing_but_fine_checks() -> None:
    assert judge(CLEAN) == ()
    assert "guest-not-running" in fine(CLEAN, ())
    assert isinstance(CLEAN.standing, Standing)
