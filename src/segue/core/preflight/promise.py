"""Theme promise: whether what was promised to the guest's users can be kept, as far as a forecast tells."""

from __future__ import annotations

from collections.abc import Iterator

from segue.core.deltas import come_first
from segue.core.forecast import sentence
from segue.core.preflight.facts import Facts, Unseen
from segue.core.preflight.findings import Finding, Seen, Severity
from segue.units import format_bytes, format_rate


def find(facts: Facts) -> Iterator[Finding]:
    """A forecast that says no. One that is sure stands in the way: the migration would decline as soon as it has begun."""
    expected = facts.expected
    if expected is None:
        return
    if isinstance(expected, Unseen):
        yield Finding(code="promise", severity=Severity.UNCHECKED, sentence=f"There is no forecast: {expected.why}.")
        return
    if expected.choice is not None:
        return
    seen = expected.seen
    dirtied = ", ".join(f"{format_bytes(one.dirtied_bytes)} dirtied in {one.ms / 1000:g} s" for one in seen.windows)
    used = f"{format_bytes(seen.touched.bytes.likely)} in use" if seen.touched else ""
    carries = f"the path carries {format_rate(seen.path.bps.likely)}, {seen.path.how}" if seen.path else ""
    waits = come_first(facts.spec, expected)
    said = sentence(expected, facts.spec.limits, deltas=waits)
    yield Finding(
        code="promise",
        severity=Severity.BLOCKER if expected.hopeless and not waits else Severity.WARNING,
        sentence=f"{said[:1].upper()}{said[1:]}.",
        seen=tuple(Seen(host=facts.source.host, what=what) for what in (used, dirtied, carries) if what),
        fix="Allow more, by one of the options that the sentence names, or wait until the guest writes less.",
    )
