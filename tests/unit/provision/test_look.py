"""What firewalls say is understood: the ports that they let in, and which chain drops the rest."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from segue.core.firewalls import Firewall, FirewallKind
from segue.hosts import LocalShell
from segue.provision.host import look

UFW = """\
ufw
Status: active

To                         Action      From
--                         ------      ----
22/tcp                     ALLOW       Anywhere
49152:49215/tcp            ALLOW       Anywhere
16514/tcp                  DENY        Anywhere
22/tcp (v6)                ALLOW       Anywhere (v6)
"""
FIREWALLD = "firewalld\n16514/tcp 49152-49215/tcp 53/udp\n\n"


def rule(right: object, verdict: str, *, chain: str = "input") -> dict[str, object]:
    match = {"match": {"op": "==", "left": {"payload": {"protocol": "tcp", "field": "dport"}}, "right": right}}
    return {"rule": {"family": "inet", "table": "t", "chain": chain, "handle": 4, "expr": [match, {verdict: None}]}}


CHAIN = {"family": "inet", "table": "t", "name": "input", "type": "filter", "hook": "input", "prio": 0, "policy": "drop"}
NFT = [
    {"chain": CHAIN},
    rule(16514, "accept"),
    rule({"range": [49152, 49215]}, "accept"),
    rule(16509, "drop"),
    rule(22, "accept", chain="other"),
]


@pytest.mark.parametrize(
    ("text", "firewall"),
    [
        ("", Firewall()),
        (UFW, Firewall(kind=FirewallKind.UFW, opened=frozenset({"22", "49152-49215"}))),
        (FIREWALLD, Firewall(kind=FirewallKind.FIREWALLD, opened=frozenset({"16514", "49152-49215"}))),
        (
            f"nftables\n{json.dumps({'nftables': NFT})}",
            Firewall(kind=FirewallKind.NFTABLES, opened=frozenset({"16514", "49152-49215"}), chain=("inet", "t", "input")),
        ),
        (f"nftables\n{json.dumps({'nftables': NFT[1:]})}", Firewall()),
    ],
)
def test_a_firewall_is_understood(text: str, firewall: Firewall):
    assert look._firewall(text) == firewall


async def test_what_is_there_and_what_names_are_is_asked_in_one_go(tmp_path: Path):
    shell = LocalShell("here")
    odd = tmp_path / "two words; $(false) 'quoted'"
    odd.touch()
    assert await look.present(shell, [str(odd), str(tmp_path / "not there")]) == [str(odd)]
    resolved = await look.resolve(shell, ["localhost", "no..name"])  # which no resolver has to be asked about
    assert resolved["no..name"] == ()
    assert set(resolved["localhost"]) & {"127.0.0.1", "::1"}
