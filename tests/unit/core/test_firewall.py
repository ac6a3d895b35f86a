"""Rules as nft and iptables print them, and what they do to a connection."""

from __future__ import annotations

import pytest

from segue.core.firewall import Packet, opening, passage

NFT = """\
table inet f {
	chain i {
		type filter hook input priority filter; policy drop;
		ct state established,related accept
		iifname "lo" accept
		ip saddr 10.0.0.0/8 tcp dport { 22, 16514, 49152-49155 } counter packets 0 bytes 0 accept
		tcp dport 80 reject with tcp reset
	}
}
"""
IPTABLES_NFT = """\
# Warning: table ip filter is managed by iptables-nft, do not touch!
table ip filter {
	chain INPUT {
		type filter hook input priority filter; policy accept;
		meta l4proto tcp tcp dport 1-4 counter packets 0 bytes 0 drop
	}
}
"""
NESTED = """\
table inet filter {
	chain input {
		type filter hook input priority 0; policy accept;
		jump wanted
		tcp dport 49152-49215 drop
	}
	chain wanted {
		tcp dport 49160 accept
		udp dport 53 accept
	}
}
"""
LEGACY = """\
*nat
:PREROUTING ACCEPT [0:0]
-A PREROUTING -p tcp --dport 49152 -j DROP
COMMIT
*filter
:INPUT DROP [12:720]
:LIBVIRT_INP - [0:0]
-A INPUT -j LIBVIRT_INP
-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A INPUT -i lo -j ACCEPT
-A INPUT -p tcp -m multiport --dports 22,16509,16514 -m comment --comment "ours, all" -j ACCEPT
-A INPUT -s 10.1.0.0/16 -p tcp -m tcp --dport 49152:49215 -j ACCEPT
-A INPUT -j LOG --log-prefix "no: "
-A LIBVIRT_INP -i virbr0 -p udp -m udp --dport 53 -j ACCEPT
COMMIT
"""
GUARDED = """\
*filter
:INPUT DROP [0:0]
-A INPUT -p tcp -m tcp --dport 49152:49215 -m set --match-set friends src -j ACCEPT
COMMIT
"""


@pytest.mark.parametrize(
    ("rules", "source", "port", "passes", "rule"),
    [
        ("", "10.0.0.1", 49152, True, ""),
        (NFT, "10.0.0.1", 49152, True, ""),
        (NFT, "10.0.0.1", 49156, False, "policy drop of inet f i"),
        (NFT, "192.0.2.1", 49152, False, "policy drop of inet f i"),
        (NFT, "192.0.2.1", 80, False, "tcp dport 80 reject with tcp reset"),
        (IPTABLES_NFT, "10.0.0.1", 3, False, "meta l4proto tcp tcp dport 1-4 counter packets 0 bytes 0 drop"),
        (IPTABLES_NFT, "10.0.0.1", 5, True, ""),
        (NESTED, "10.0.0.1", 49160, True, ""),
        (NESTED, "10.0.0.1", 49161, False, "tcp dport 49152-49215 drop"),
        (LEGACY, "10.1.2.3", 49152, True, ""),
        (LEGACY, "10.2.2.3", 49152, False, "policy drop of iptables INPUT"),
        (LEGACY, "10.2.2.3", 16514, True, ""),
        (GUARDED, "10.2.2.3", 49152, None, "policy drop of iptables INPUT"),
        (LEGACY + NFT, "10.1.2.3", 49156, False, "policy drop of inet f i"),
    ],
)
def test_a_packet_passes_as_the_kernel_would_let_it(rules, source, port, passes, rule):
    found = passage(rules, Packet(source=source, port=port))
    assert (found.passes, found.rule) == (passes, rule)


def test_the_command_that_opens_is_that_of_whoever_keeps_the_rules():
    ports = (49152, 49215)
    assert opening("ufw", "10.0.0.1", ports) == "ufw allow proto tcp from 10.0.0.1 to any port 49152:49215"
    assert "--add-port=49152-49215/tcp" in opening("firewalld", "10.0.0.1", ports)
    found = passage(NFT, Packet(source="192.0.2.1", port=49152))
    assert opening("", "192.0.2.1", ports, found.chain).startswith(
        "nft insert rule inet f i ip saddr 192.0.2.1 tcp dport 49152-49215"
    )
    assert opening("", "10.0.0.1", ports, "iptables INPUT").startswith("iptables -I INPUT -p tcp -s 10.0.0.1")
