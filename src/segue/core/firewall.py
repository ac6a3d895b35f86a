"""Whether a host's packet filter lets a new TCP connection to one of its ports through, read from its rules.

Both ways to write them down are read: ``iptables-save`` and ``nft list ruleset``; ufw and firewalld write one of these. A rule
whose condition is not understood may match or not: then the answer is "not known", never "open". What may live here: reading
rules and following them as the kernel does (iptables(8), nft(8)).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

DEEPEST: Final = 16
"""Chains in chains: the kernel refuses loops, and so many levels nobody writes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Packet:
    """The first packet of a connection.

    Attributes:
        source: where it comes from, an IP address.
        port: where it goes to.
    """

    source: str
    port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """What becomes of a packet.

    Attributes:
        passes: ``None``: not known.
        rule: the rule that decides, as it is written; empty where none stops it.
        chain: where it stands: for nft family, table and chain.
    """

    passes: bool | None
    rule: str = ""
    chain: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rule:
    """One rule: whether it applies (``None``: not known), and what it says."""

    text: str
    applies: bool | None
    verdict: str


@dataclass(slots=True)
class _Chain:
    policy: str = "accept"
    hooked: bool = False
    rules: list[_Rule] = field(default_factory=list)


_Chains = Mapping[str, _Chain]
_STOPS: Final = ("drop", "reject")


def passage(rules: str, packet: Packet) -> Passage:
    """What these rules do to that packet.

    Args:
        rules: the output of ``iptables-save``, of ``nft list ruleset``, or both.
        packet: the packet.
    """
    chains = {**_iptables(rules.splitlines(), packet), **_nft(rules.splitlines(), packet)}
    unknown = Passage(passes=True)
    for name, chain in chains.items():
        if chain.hooked:
            verdict, rule, sure = _follow(chains, name, 0)
            verdict = verdict or chain.policy
            if verdict in _STOPS:
                found = Passage(passes=False if sure else None, rule=rule or f"policy {chain.policy} of {name}", chain=name)
                if sure:
                    return found
                unknown = found
            elif not sure and rule:
                unknown = Passage(passes=None, rule=rule, chain=name)
    return unknown


def _follow(chains: _Chains, name: str, depth: int) -> tuple[str, str, bool]:
    """The verdict of a chain (empty: none), the rule that says it, and whether that is sure."""
    sure, doubtful = True, ""
    for rule in chains[name].rules if depth < DEEPEST else ():
        if rule.applies is False:
            continue
        verdict, said_by, inner = rule.verdict, rule.text, True
        if (target := _jump(name, rule.verdict)) in chains:
            verdict, inside, inner = _follow(chains, target, depth + 1)
            said_by = inside or rule.text
        elif verdict not in ("accept", "return", *_STOPS):
            continue  # it counts, logs or marks
        if verdict and rule.applies and inner:
            return ("" if verdict == "return" else verdict), ("" if verdict == "accept" else said_by), sure
        if verdict or not inner:
            sure = False
            doubtful = doubtful or (said_by if verdict in _STOPS else "")
    return "", doubtful, sure


def _jump(chain: str, verdict: str) -> str:
    """The full name of the chain that a verdict names, in the table of its own."""
    table, _, _ = chain.rpartition(" ")
    return f"{table} {verdict.removeprefix('jump ').removeprefix('goto ')}"


def _all(conditions: Iterable[bool | None]) -> bool | None:
    known = list(conditions)
    if False in known:
        return False
    return None if None in known else True


def _from(network: str, packet: Packet) -> bool | None:
    try:
        return ipaddress.ip_address(packet.source) in ipaddress.ip_network(network, strict=False)
    except (ValueError, TypeError):
        return None


def _to_port(ports: Sequence[str], packet: Packet) -> bool | None:
    found: bool | None = False
    for one in ports:
        first, _, last = one.replace(":", "-").partition("-")
        if not first.isdigit() or (last and not last.isdigit()):
            found = None if found is False else found
        elif int(first) <= packet.port <= int(last or first):
            return True
    return found


# --- iptables-save

_WORD: Final = re.compile(r'"(?:[^"\\]|\\.)*"|\S+')
_HARMLESS: Final = frozenset({"-m", "--comment", "-c", "--reject-with", "--log-prefix", "--log-level", "--set-counters"})


def _iptables(lines: Sequence[str], packet: Packet) -> dict[str, _Chain]:
    chains: dict[str, _Chain] = {}
    table = ""
    for line in lines:
        if line.startswith("*"):
            table = line[1:]
        elif table != "filter":
            continue
        elif line.startswith(":"):
            name, policy = line[1:].split()[:2]
            chains[f"iptables {name}"] = _Chain(policy=policy.lower(), hooked=name == "INPUT")
        elif line.startswith("-A "):
            words = _WORD.findall(line)
            chain = chains.setdefault(f"iptables {words[1]}", _Chain())
            chain.rules.append(_iptables_rule(line, words[2:], packet))
    return chains


def _iptables_rule(line: str, words: Sequence[str], packet: Packet) -> _Rule:
    conditions: list[bool | None] = []
    verdict = ""
    for option, value, negated in _options(words):
        if option in ("-j", "-g"):
            verdict = value.lower() if value in ("ACCEPT", "DROP", "REJECT", "RETURN") else value
        elif option not in _HARMLESS:
            conditions.append(None if negated else _iptables_condition(option, value, packet))
    return _Rule(text=line, applies=_all(conditions), verdict=verdict)


def _options(words: Sequence[str]) -> Iterable[tuple[str, str, bool]]:
    """Each option with its first value, and whether it stands for the contrary."""
    negated = False
    for at, word in enumerate(words):
        if word == "!":
            negated = True
        elif word.startswith("-"):
            value = words[at + 1] if at + 1 < len(words) and not words[at + 1].startswith("-") else ""
            yield word, value, negated
            negated = False


def _iptables_condition(word: str, value: str, packet: Packet) -> bool | None:
    match word:
        case "-p":
            return value in ("tcp", "all", "0", "6")
        case "-s":
            return _from(value, packet)
        case "--dport" | "--dports":
            return _to_port(value.split(","), packet)
        case "--state" | "--ctstate":
            return "NEW" in value.split(",")
        case "-i":
            return False if value == "lo" else None
        case _:
            return None


# --- nft list ruleset

_SET: Final = re.compile(r"\{([^{}]*)\}")
_QUIET: Final = re.compile(r"\b(?:counter packets \d+ bytes \d+|counter|comment \"[^\"]*\"|with [a-z0-9 -]+)|# handle \d+")
_VERDICT: Final = re.compile(r"(?:^|\s)(accept|drop|reject|return|(?:jump|goto) \S+)\s*$")
_IS_TCP: Final = re.compile(r"\b(?:meta l4proto|ip protocol|ip6 nexthdr) tcp\b")
_BEGINS: Final = re.compile(r"(?<!^)\s+(?=(?:tcp|udp|icmp|icmpv6|ip|ip6|ct|iif|iifname|oif|oifname|meta|limit|fib|xt|ether|th) )")


def _nft(lines: Sequence[str], packet: Packet) -> dict[str, _Chain]:
    chains: dict[str, _Chain] = {}
    table = ""
    chain: _Chain | None = None
    for raw in lines:
        line = raw.strip()
        if line.startswith("table ") and line.endswith("{"):
            table = line[6:-1].strip()
        elif table and line.startswith("chain ") and line.endswith("{"):
            chain = chains.setdefault(f"{table} {line[6:-1].strip()}", _Chain())
        elif line == "}":
            chain, table = (None, table) if chain is not None else (None, "")
        elif chain is not None and line.startswith("type "):
            chain.hooked = "hook input" in line and line.startswith("type filter")
            chain.policy = "drop" if "policy drop" in line else "accept"
        elif chain is not None and line and not line.startswith("#"):
            chain.rules.append(_nft_rule(line, packet))
    return chains


def _nft_rule(line: str, packet: Packet) -> _Rule:
    text = _IS_TCP.sub("", _SET.sub(lambda found: found[1].strip(), _QUIET.sub("", line))).strip()
    verdict = found[1] if (found := _VERDICT.search(text)) else ""
    conditions = _VERDICT.sub("", text).strip()
    parts = [part.strip() for part in _BEGINS.split(conditions) if part.strip()] if conditions else []
    return _Rule(text=line, applies=_all(_nft_condition(part, packet) for part in parts), verdict=verdict)


def _nft_condition(part: str, packet: Packet) -> bool | None:
    subject, _, value = part.rpartition(" ") if "," not in part else _before_list(part)
    match subject:
        case "tcp dport":
            return _to_port(re.split(r"[ ,]+", value), packet)
        case "ip saddr" | "ip6 saddr":
            return _from(value, packet)
        case "ct state":
            return "new" in re.split(r"[ ,]+", value)
        case "iif" | "iifname":
            return False if value.strip('"') == "lo" else None
        case _:
            return False if part.split()[0] in ("udp", "icmp", "icmpv6", "igmp", "sctp") else None


def _before_list(part: str) -> tuple[str, str, str]:
    """A condition with a list: its first two words, and the list."""
    words = part.split(None, 2)
    return " ".join(words[:2]), " ", words[-1]


# --- how to open it


def opening(manager: str, source: str, ports: tuple[int, int], chain: str = "") -> str:
    """The command that lets a range of ports through, for whoever keeps the rules there.

    Args:
        manager: ``ufw``, ``firewalld``; anything else: nobody but the rules themselves.
        source: the host that is to be let in, an IP address.
        ports: the first and the last.
        chain: where the rule stands that stops it (`Passage.chain`).
    """
    first, last = ports
    match manager:
        case "ufw":
            return f"ufw allow proto tcp from {source} to any port {first}:{last}"
        case "firewalld":
            return f"firewall-cmd --permanent --add-port={first}-{last}/tcp && firewall-cmd --reload"
        case _ if chain and not chain.startswith("iptables "):
            family = "ip6" if ":" in source else "ip"
            return (
                f"nft insert rule {chain} {family} saddr {source} tcp dport {first}-{last} accept  # and keep it in nftables.conf"
            )
        case _:
            return f"iptables -I INPUT -p tcp -s {source} --dport {first}:{last} -j ACCEPT  # and keep it with iptables-save"
