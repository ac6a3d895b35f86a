"""What a move cost the guest and its clients: three numbers from three places, which are never mixed.

What the hypervisor says of itself, what the guest's own clock lost, and how long a client on the network got no answer differ by
what each of them can see. QEMU counts from its own stop to its own "completed": in post-copy it was seen to say 1 to 6 ms where
nobody was answered for 257 to 548 ms. The guest's clock knows nothing of the network; and a client sees all of it, a switch that
still sends to the old port included.

What may live here: the values, where a probe goes, and pure functions between them. Times are milliseconds of one monotonic
clock, Segue's own: both hosts' news are stamped when they arrive here, so that two hosts' clocks need not agree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from segue.errors import UsageError


class ProbeKind(StrEnum):
    """How a probe asks."""

    PING = "ping"
    """ICMP echo."""
    TCP = "tcp"
    """A connection is made and closed; one that is refused is an answer too: the guest's own kernel gives it."""
    UDP = "udp"
    """A datagram of 8 bytes; whatever comes back is an answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeTarget:
    """Whom a probe asks.

    Attributes:
        kind: how.
        address: of the guest, an IP address or a name.
        port: of a service in it; 0 for `PING`.
    """

    kind: ProbeKind
    address: str
    port: int = 0

    def __str__(self) -> str:
        """As it is written on the command line."""
        address = f"[{self.address}]" if self.port and ":" in self.address else self.address
        return f"{self.kind}:{address}{f':{self.port}' if self.port else ''}"


def parse_probe(text: str) -> ProbeTarget:
    """Read ``ping:10.0.0.5``, ``tcp:web1:443`` or ``udp:[fd00::5]:7``.

    Raises:
        UsageError: it is none of these.
    """
    kind, _, rest = text.partition(":")
    problem = UsageError(f"{text!r} is no probe.", hint="Write it like ping:10.0.0.5, tcp:web1:443 or udp:[fd00::5]:7.")
    if kind not in tuple(ProbeKind):
        raise problem
    address, port = (rest.strip("[]"), "") if kind == ProbeKind.PING else _host_and_port(rest)
    if not address or any(char.isspace() for char in address) or bool(port) is (kind == ProbeKind.PING):
        raise problem
    if port and not (port.isascii() and port.isdigit() and 0 < int(port) < 1 << 16):
        raise problem
    return ProbeTarget(kind=ProbeKind(kind), address=address, port=int(port or 0))


def _host_and_port(text: str) -> tuple[str, str]:
    host, colon, port = text.rpartition(":")
    if host.startswith("[") != host.endswith("]") or (":" in host and not host.startswith("[")):
        return "", ""
    return (host.strip("[]"), port) if colon else ("", "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """A time without an answer: from the sending of a probe to the next answer of any.

    Attributes:
        began_ms: when that probe was sent.
        ended_ms: when an answer came.
    """

    began_ms: int
    ended_ms: int

    @property
    def ms(self) -> int:
        """How long."""
        return self.ended_ms - self.began_ms


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """What a client saw that kept asking.

    Attributes:
        probe: whom it asked, and how.
        downtime_ms: the longest time without an answer while the migration ran; ``None`` where no answer ever came.
        silent: no answer has come since; `downtime_ms` is how long it had lasted when nobody waited any longer.
        asked, answered: how many probes were sent, and answers came.
    """

    probe: str
    downtime_ms: int | None
    silent: bool
    asked: int
    answered: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Moments:
    """What a driver heard of the switchover, and when; ``None`` for what it has not heard.

    Attributes:
        stopped_ms: the source stopped the guest.
        arrived_ms: the source said that all of it had arrived; in post-copy, that the destination may go on with what it has.
        resumed_ms: the destination runs it.
        last_pass_bytes: memory that was sent while the guest stood.
        last_pass_bps: at about this rate.
    """

    stopped_ms: int | None = None
    arrived_ms: int | None = None
    resumed_ms: int | None = None
    last_pass_bytes: int | None = None
    last_pass_bps: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Switchover:
    """The switchover in its parts, in ms. ``None``: nobody said.

    Attributes:
        copying_ms: from the guest's stop on the source until all of it had arrived: `last_pass_ms` and `device_state_ms`.
        last_pass_ms: the share of the memory in that. QEMU tells no moment in between: this is reckoned, from the bytes that it
            sent while the guest stood and the rate before.
        device_state_ms: the rest of it.
        resume_ms: from there until the destination ran the guest.
        first_answer_ms: from there until a client was answered.
    """

    copying_ms: int | None = None
    last_pass_ms: int | None = None
    device_state_ms: int | None = None
    resume_ms: int | None = None
    first_answer_ms: int | None = None


def client(
    probe: ProbeTarget, gaps: Sequence[Gap], *, waiting_since_ms: int | None, asked: int, answered: int, now_ms: int
) -> Client:
    """What a client saw.

    Args:
        probe: whom it asked.
        gaps: times without an answer, those at the beginning of the watch not among them.
        waiting_since_ms: the first probe that nothing has answered yet was sent then.
        asked: probes sent.
        answered: answers that came.
        now_ms: nobody waits any longer.
    """
    waited_ms = now_ms - waiting_since_ms if waiting_since_ms is not None and answered else 0
    longest_ms = max((gap.ms for gap in gaps), default=0)
    return Client(
        probe=str(probe),
        downtime_ms=max(longest_ms, waited_ms) if answered else None,
        silent=waited_ms > longest_ms,
        asked=asked,
        answered=answered,
    )


def parts(moments: Moments, gaps: Sequence[Gap]) -> Switchover:
    """Split the switchover as far as it was heard.

    Args:
        moments: what the driver heard.
        gaps: times in which a client got no answer.
    """
    copying = _between(moments.stopped_ms, moments.arrived_ms)
    last_pass = None
    if copying is not None and moments.last_pass_bytes is not None and moments.last_pass_bps:
        last_pass = min(copying, moments.last_pass_bytes * 1000 // moments.last_pass_bps)
    resumed = moments.resumed_ms
    first = None
    if resumed is not None:
        # By the stop as well as by the resumption: that one is told by another host, whose clock is known to some milliseconds.
        stood_ms = resumed if moments.stopped_ms is None else moments.stopped_ms
        missed = [gap for gap in gaps if gap.began_ms <= resumed and gap.ended_ms > stood_ms]
        first = max(0, max(missed, key=lambda gap: gap.ms).ended_ms - resumed) if missed else None
    return Switchover(
        copying_ms=copying,
        last_pass_ms=last_pass,
        device_state_ms=None if copying is None or last_pass is None else copying - last_pass,
        resume_ms=_between(moments.arrived_ms, resumed),
        first_answer_ms=first,
    )


def _between(early_ms: int | None, late_ms: int | None) -> int | None:
    """Milliseconds between two moments that were both heard; news of two hosts may overtake each other by a little."""
    return None if early_ms is None or late_ms is None else max(0, late_ms - early_ms)
