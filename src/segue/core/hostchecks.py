"""What is not as it should be on a host, in words: what preparing would still change, and what only the other hosts show.

What may live here: decisions about facts; nothing is looked at here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from segue.core.firewalls import closed
from segue.core.hostfacts import LIBVIRT_TCP_PORT, Seen, Wanted, ports_needed
from segue.core.steps import Certificates, Command, File, Install, Step


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is not as it should be on a host, and what mends it.

    Attributes:
        about: what it concerns, stable for scripts.
    """

    host: str
    about: str
    text: str
    fix: str


def lacking(seen: Seen, steps: Sequence[Step]) -> list[Finding]:
    """What steps that are still to be done say about a host."""
    fix = f"segue host prepare {seen.host}"
    found = []
    for step in steps:
        match step:
            case Install(packages=names):
                found.append(Finding(host=seen.host, about="packages", text=f"missing: {' '.join(names)}", fix=fix))
            case File(path=path, settings=settings):
                words = ", ".join(f"{name} = {value!r}" for name, value in settings.items()) or "it is not as it should be"
                found.append(Finding(host=seen.host, about="configuration", text=f"{path}: {words}", fix=fix))
            case Certificates():
                found.append(Finding(host=seen.host, about="certificates", text="there are none", fix=fix))
            case Command(title=title, argv=argv) if argv[:2] == ("systemctl", "enable"):
                found.append(Finding(host=seen.host, about="units", text=f"{argv[-1]} is not on ({title})", fix=fix))
            case Command():
                pass  # it serves one of the others
    return found


CLOCKS_APART_S: Final = 1.0
"""More than that is somebody's mistake: time services keep hosts of one network within milliseconds (RFC 5905, abstract)."""


def clocks_apart(offsets: Mapping[str, tuple[float, float]], host: str) -> list[Finding]:
    """Which clocks disagree with a host's.

    Args:
        offsets: of each host's clock from ours, and by how much that may be wrong, in seconds.
        host: the one that is looked at.
    """
    own, doubt = offsets[host]
    found = []
    for other, (offset, other_doubt) in offsets.items():
        apart = abs(own - offset)
        if other != host and apart - doubt - other_doubt > CLOCKS_APART_S:
            text = (
                f"its clock and that of {other} are {apart:.1f} s apart: certificates may not hold, and logs cannot be compared"
            )
            found.append(Finding(host=host, about="time", text=text, fix="let both follow one time server; timedatectl tells"))
    return found


def names_apart(resolved: Mapping[str, Mapping[str, tuple[str, ...]]], host: str) -> list[Finding]:
    """Which names are not the same on a host as on the others.

    Args:
        resolved: for each host, what each name of the fleet resolves to there.
        host: the one that is looked at.
    """
    found = []
    for name, addresses in resolved[host].items():
        text = ""
        if not addresses:
            text = f"{name} resolves to nothing there"
        elif is_loopback(addresses):
            text = f"{name} resolves to the host itself there ({addresses[0]}): guests that are sent to that name arrive nowhere"
        else:
            for other, theirs in resolved.items():
                there = theirs.get(name, ())
                if there and not is_loopback(there) and not set(there) & set(addresses):
                    text = f"{name} is {addresses[0]} there, and {there[0]} on {other}"
        if text:
            found.append(
                Finding(
                    host=host, about="names", text=text, fix="mend DNS or /etc/hosts; what resolves to nothing, prepare mends"
                )
            )
    return found


def is_loopback(addresses: Sequence[str]) -> bool:
    """Whether all of them lead back to the host that asks."""
    return all(one.startswith("127.") or one == "::1" for one in addresses)


def warnings(seen: Seen, wanted: Wanted) -> tuple[str, ...]:
    """What somebody must know before agreeing."""
    said = []
    if wanted.tcp and wanted.insecure:
        said.append(
            f"--insecure-lab: whoever reaches port {LIBVIRT_TCP_PORT} becomes root on this host, is asked nothing, and can read "
            "all that guests send: only for a network that nobody else can reach"
        )
    elif wanted.tcp:
        said.append(
            f"port {LIBVIRT_TCP_PORT} lets in whom SASL lets in (auth_tcp); /etc/sasl2/libvirt.conf must name a mechanism that "
            "encrypts, such as gssapi. TLS needs none of that"
        )
    elif LIBVIRT_TCP_PORT in seen.listening and '"none"' in _line(seen, "auth_tcp"):
        said.append(f"port {LIBVIRT_TCP_PORT} is open already, and asks nobody who he is: whoever reaches it becomes root there")
    if shut := closed(seen.firewall, ports_needed(wanted)):
        said.append(f"{seen.firewall.kind} does not let in TCP {', '.join(shut)}: --firewall opens them")
    if wanted.exports:
        said.append("no_root_squash: root of every host that mounts an export is root in it; libvirt needs that to own images")
    return tuple(said)


def _line(seen: Seen, setting: str) -> str:
    lines = seen.files.get(seen.daemon.conf, "").splitlines()
    return next((line for line in lines if line.split("=")[0].strip() == setting), "")
