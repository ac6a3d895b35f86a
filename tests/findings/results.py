"""What came of each case, kept beside the page that is written of it; and that page."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segue.core.preflight import CHECKS
from segue.core.preflight.findings import Severity
from tests.findings.healthy import KINDS
from tests.findings.network import EVERY

REFERENCE = Path(__file__).parents[2] / "docs/reference"
KEPT = REFERENCE / "findings.json"
PAGE = REFERENCE / "findings.md"
ELSEWHERE = dict.fromkeys(("machine-type", "qemu-older"), "docs/guide/from-the-recipe.md")
"""Findings that are provoked by another file of this repository, in which their codes stand."""
TAKES = {
    **dict.fromkeys(("pci-device", "sriov", "mdev", "scsi-host", "tpm-host"), "hardware of that kind"),
    "block-passthrough": "a SCSI disk of the host's",
    **dict.fromkeys(("vsock", "bridge-vlan"), "a module of the kernel (vhost_vsock, 8021q)"),
    "tsc": "KVM",
    "first-look": "an emulated guest of 1.5 GiB or more, or a busy one: bench converge has both, *idle-4g* and *set-32*",
    **dict.fromkeys(("cpu-pinning", "numa", "clock"), "two machines: a lab's hosts have one kernel"),
    "disk-cache": "a QEMU older than 4.0",
    "capabilities": "a QEMU that lacks what was asked for; those of Debian 12 and 13 have all of it",
}
"""What the others would take."""
_NONE = "a bare QEMU has nothing of that kind"
ALONE = {
    **dict.fromkeys(("checkpoints", "managed-save", "autostart", "network-missing", "keepalive"), _NONE),
    **dict.fromkeys(("disk-format", "disk-taken"), "libvirt itself makes the files there, in any format that QEMU has"),
    "names": "Segue is told how to reach a bare guest's hosts; the source does not look a name up",
    "p2p": "a bare guest's other control path is Segue on its host, by ssh: what stands in its way is told as that",
    "qemu-blocks": "libvirt does not tell it; it asks QEMU itself, as the first thing that its call does",
    "usb-host": "libvirt starts no guest with a device that is not plugged in, and nothing is plugged into a lab",
    "tpm-state": "libvirt starts the daemon there, and takes its state along",
    "unsupported": "what libvirt cannot move it tells by what was asked for",
    "display-port": "a bare guest's display gives way to the next port that is free",
    "device-unknown": "libvirt does not tell which devices an emulator has",
    "memory": "libvirt's QEMU reserves a guest's memory when it starts: what a lab's machine has not, none of its hosts starts",
    "disk-unshared": "libvirt alone judges file systems",
    "postcopy-rights": "libvirt's QEMUs run as root in a lab",
}
"""Why a finding is provoked for one kind of guest alone."""
COUNTED = ("guest", "moves", "arrived", *Severity, "looked")
"""The columns of healthy migrations."""

HEAD = """# What preflight can find

Written by `./run findings`, which provokes each finding on the lab, sees that `segue check` tells it, and, where it is a
blocker, goes past it all the same (`segue migrate --accept CODE`): what then happens is in the last column. Each code has a page
in [the runbook](../runbook/findings/).

A finding is a **blocker** (the migration would fail, or endanger the guest), a **warning**, a **note**, or **unchecked**: it
could not be seen, which is never the same as fine. Blockers that protect the guest from running twice cannot be accepted.

## Provoked

| code | guest | found as | forced past it |
|---|---|---|---|
{rows}

## For one kind of guest alone

| code | provoked for | why not for the other |
|---|---|---|
{alone}

## Healthy migrations

`./run findings --healthy N` moves a guest of the lab that nothing is wrong with (Linux, busy in memory and on a disk that both
hosts reach, with a NIC on their bridges) back and forth, N times of each kind, and counts what preflight says of it. *Until
the first action*: from the call of `segue.migrate()` to its first action on a hypervisor, the median: connecting to both, looking
for the guest on each of them, and preflight.

| guest | moves | arrived | blockers | warnings | notes | not checked | until the first action |
|---|---|---|---|---|---|---|---|
{healthy}

## Provoked by others

On labs of two Debian releases; there the blocker is forced, too.

| code | about | provoked by |
|---|---|---|
{elsewhere}

## Not played

The rules of these are tested on facts, and the reading of those facts on recorded XML and QMP answers.

| code | about | what it takes |
|---|---|---|
{others}
"""


def load() -> dict[str, dict[str, str]]:
    """By the words of the case."""
    found: dict[str, dict[str, str]] = json.loads(KEPT.read_text(encoding="utf-8")) if KEPT.exists() else {}
    return found


def save(kept: Mapping[str, Mapping[str, str]]) -> None:
    """All of it."""
    KEPT.write_text(json.dumps(kept, indent=1, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8")


def page(kept: Mapping[str, Mapping[str, str]]) -> str:
    """The page."""
    rows, provoked = [], set()
    healthy = [kept[f"healthy {kind}"] for kind in KINDS if f"healthy {kind}" in kept]
    for case in EVERY:
        if (result := kept.get(str(case))) is None:
            continue
        provoked.add(case.code)
        rows.append(f"| {_linked(case.code)} | {case.kind} | {result['severity']} | {result['forced'] or '-'} |")
    left = [check for check in CHECKS.values() if check.code not in provoked]

    def table(why: Mapping[str, str], form: str) -> str:
        codes = [(_linked(one.code), one) for one in left if one.code in why]
        return "\n".join(f"| {code} | {one.theme} | {form.format(why[one.code])} |" for code, one in codes)

    counts = "\n".join(" | ".join(("", *(one[name] for name in COUNTED), "")).strip() for one in healthy)
    elsewhere = table(ELSEWHERE, "[{0}](../../{0})")
    kinds = {code: {case.kind for case in EVERY if case.code == code} for code in CHECKS}
    single = [
        (code, kind) for code, [kind, *more] in ((code, tuple(found)) for code, found in kinds.items() if found) if not more
    ]
    alone = "\n".join(f"| {_linked(code)} | {kind} | {ALONE[code]} |" for code, kind in single)
    return HEAD.format(rows="\n".join(rows), alone=alone, healthy=counts, elsewhere=elsewhere, others=table(TAKES, "{0}"))


def _linked(code: str) -> str:
    return f"[{code}](../runbook/findings/{code}.md)"


def row(kind: str, found: Mapping[str, Any]) -> dict[str, str]:
    """What is kept of so many moves of a healthy guest."""
    told = {
        str(severity): ", ".join(f"{code}: {count}" for code, count in found[severity].items()) or "0" for severity in Severity
    }
    figures = {"moves": str(found["moves"]), "arrived": str(found["moved"]), "looked": f"{found['looked_s']:.2f} s"}
    return {"guest": kind, **figures, **told}
