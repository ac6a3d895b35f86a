"""What filters packets on a host, and what lets the hosts of a fleet through.

Only what filters is touched: a host whose nftables have no chain that drops has nothing to open.
What may live here: the table of the three, and the steps that open them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from segue.core.steps import Command


class FirewallKind(StrEnum):
    """Who sets the rules."""

    NONE = "none"
    FIREWALLD = "firewalld"
    UFW = "ufw"
    NFTABLES = "nftables"


@dataclass(frozen=True, slots=True, kw_only=True)
class Firewall:
    """What filters what comes in.

    Attributes:
        kind: who sets the rules.
        opened: what is let in already, each a port or ``first-last``.
        chain: with nftables: family, table and name of the chain that drops.
    """

    kind: FirewallKind = FirewallKind.NONE
    opened: frozenset[str] = frozenset()
    chain: tuple[str, str, str] = ("", "", "")


def closed(firewall: Firewall, ports: Sequence[str]) -> tuple[str, ...]:
    """Which of these ports it does not let in, by its own rules' words."""
    return () if firewall.kind is FirewallKind.NONE else tuple(port for port in ports if port not in firewall.opened)


def open_steps(firewall: Firewall, ports: Sequence[str]) -> list[Command]:
    """The steps that let in what it does not let in yet."""
    return [step for port in closed(firewall, ports) for step in _steps(firewall, port)]


def _steps(firewall: Firewall, port: str) -> list[Command]:
    title = f"{firewall.kind}: let in TCP {port}"
    match firewall.kind:
        case FirewallKind.NONE:
            return []
        case FirewallKind.FIREWALLD:
            return [
                Command(
                    title=f"{title}{' for good' if forever else ' now'}",
                    argv=("firewall-cmd", *forever, f"--add-port={port}/tcp"),
                    undo=("firewall-cmd", *forever, f"--remove-port={port}/tcp"),
                )
                for forever in (("--permanent",), ())
            ]
        case FirewallKind.UFW:
            allow = ("allow", f"{port.replace('-', ':')}/tcp")
            return [Command(title=title, argv=("ufw", *allow), undo=("ufw", "delete", *allow))]
        case FirewallKind.NFTABLES:
            rule = (*firewall.chain, "tcp", "dport", port, "accept", "comment", '"segue"')
            undo = ("sh", "-c", _DELETE, "sh", *firewall.chain, port)
            return [Command(title=f"{title}, until its rules are loaded anew", argv=("nft", "insert", "rule", *rule), undo=undo)]


# The handle of a rule is not known before there is one; ours is the one with our comment and that port.
_DELETE = r"""
nft -a list chain "$1" "$2" "$3" | sed -n "s/^.*tcp dport $4 .*accept comment \"segue\".*# handle \([0-9]*\)$/\1/p" |
while read -r handle; do nft delete rule "$1" "$2" "$3" handle "$handle" || exit; done
"""
