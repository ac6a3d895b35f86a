"""What came of each case, kept beside the page that is written of it; and that page."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from segue.core.preflight import CHECKS
from tests.findings.network import EVERY

REFERENCE = Path(__file__).parents[2] / "docs/reference"
KEPT = REFERENCE / "findings.json"
PAGE = REFERENCE / "findings.md"

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

## Not played

The rules of these are tested on facts, and the reading of those facts on recorded XML and QMP answers.

| code | about | why |
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
    for case in EVERY:
        if (result := kept.get(str(case))) is None:
            continue
        provoked.add(case.code)
        code = f"[{case.code}](../runbook/findings/{case.code}.md)"
        rows.append(f"| {code} | {case.kind} | {result['severity']} | {result['forced'] or '-'} |")
    cases = {case.code for case in EVERY}
    why = {True: "its case has not been played yet", False: "the lab lacks what it takes, or another file has its test"}
    others = [
        f"| [{check.code}](../runbook/findings/{check.code}.md) | {check.theme} | {why[check.code in cases]} |"
        for check in CHECKS.values()
        if check.code not in provoked
    ]
    return HEAD.format(rows="\n".join(rows), others="\n".join(others))
