"""What a host is like. What may live here: commands that change nothing, and what they say made into `Seen`."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterable, Sequence
from typing import Final

from segue.core.firewalls import Firewall, FirewallKind
from segue.core.hostfacts import (
    NFS_CLIENT,
    NFS_SERVER,
    PACKAGES,
    READ_FILES,
    TIME_SERVICE,
    UNIT_DIRECTORY,
    UNITS,
    Init,
    Seen,
    Unit,
    Wanted,
)
from segue.core.pki import FILES
from segue.errors import HostSetupError
from segue.hosts import HostShell
from segue.hosts.shell import checked

COMMAND_S: Final = 30.0
TIME_SERVICES: Final = ("chrony", "chronyd", "ntpsec", "ntp", "ntpd", "openntpd", "systemd-timesyncd")
_LISTENING: Final = "0A"  # net/tcp_states.h, as /proc/net/tcp writes it

# Prints sections, each under a line of its own that no output can imitate: it has a NUL in front.
_ASK: Final = r"""
section() { printf '\000%s\n' "$1"; }
section id; id -u
section init; [ -d /run/systemd/system ] && echo systemd || echo none
section container; systemd-detect-virt -c 2>/dev/null
section apt; command -v apt-get; command -v dpkg-query
section uuid; cat /sys/class/dmi/id/product_uuid 2>/dev/null
section tcp; cat /proc/net/tcp /proc/net/tcp6 2>/dev/null
section daemon; for pid in $(pgrep -x libvirtd); do tr '\000' '\n' <"/proc/$pid/cmdline"; break; done
section firewall
if firewall-cmd --state >/dev/null 2>&1; then echo firewalld; firewall-cmd --list-ports; firewall-cmd --permanent --list-ports
elif LC_ALL=C ufw status 2>/dev/null | grep -q '^Status: active'; then echo ufw; LC_ALL=C ufw status
elif nft -j list ruleset 2>/dev/null | grep -q '"policy": *"drop"'; then echo nftables; nft -j list ruleset
fi
"""


async def look(shell: HostShell, wanted: Wanted, *, names: Iterable[str] = ()) -> Seen:
    """Everything of a host that matters to preparing it.

    Args:
        shell: on it, as root.
        wanted: what is asked for decides which mounts and packages are looked at.
        names: of the fleet, to be resolved there.

    Raises:
        HostSetupError: whoever logs in there is not root.
        HostUnreachable, AnswerNotSeen.
    """
    said = await _sections(shell)
    if said["id"].strip() != "0":
        raise HostSetupError(
            f"Whoever logs in to {shell.name} is not root there.", hint="Log in as root: qmp+ssh://root@HOST/ in segue.toml."
        )
    init = Init(said["init"].strip())
    has_units = init is Init.SYSTEMD
    own = [f"{UNIT_DIRECTORY}/{share.unit}" for share in wanted.shares]
    units, clocks, packages = await asyncio.gather(  # an sshd lets in ten sessions at once (sshd_config, MaxSessions)
        _units(shell, UNITS if has_units else ()),
        _units(shell, [f"{name}.service" for name in TIME_SERVICES] if has_units else ()),
        _packages(shell, (*PACKAGES, NFS_CLIENT, NFS_SERVER, TIME_SERVICE)),
    )
    files, certificates, resolved, mounts = await asyncio.gather(
        _files(shell, [*READ_FILES, *own]),
        present(shell, FILES),
        resolve(shell, names),
        _mounts(shell, [share.path for share in wanted.shares]),
    )
    return Seen(
        host=shell.name,
        apt=len(said["apt"].split()) == 2,
        packages=packages,
        init=init,
        units=units,
        files=files,
        daemon_argv=tuple(said["daemon"].splitlines()),
        listening=_listening(said["tcp"]),
        certificates=frozenset(certificates),
        uuid=re.sub(r"[^0-9a-f]", "", said["uuid"].lower()),
        resolved=resolved,
        mounts=mounts,
        firewall=_firewall(said["firewall"]),
        container=said["container"].strip() not in ("", "none"),
        time_service=next((name.removesuffix(".service") for name, unit in clocks.items() if unit.enabled), ""),
    )


async def _sections(shell: HostShell) -> dict[str, str]:
    done = await shell.run(["sh", "-c", _ASK], deadline_s=COMMAND_S)
    parts = (part.partition("\n") for part in done.stdout.decode(errors="replace").split("\0")[1:])
    return {name: text for name, _, text in parts}


async def _units(shell: HostShell, names: Sequence[str]) -> dict[str, Unit]:
    if not names:
        return {}
    ask = ["systemctl", "show", "--property=Id,LoadState,UnitFileState,ActiveState", "--", *names]
    text = (await shell.run(ask, deadline_s=COMMAND_S)).stdout.decode(errors="replace")
    found = {}
    for block in text.strip().split("\n\n"):
        facts = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        if facts.get("LoadState") == "loaded":
            found[facts["Id"]] = Unit(
                enabled=facts["UnitFileState"].startswith("enabled"), active=facts["ActiveState"] in ("active", "activating")
            )
    return found


async def _packages(shell: HostShell, names: Sequence[str]) -> frozenset[str]:
    ask = ["dpkg-query", "--show", "--showformat=${Package} ${db:Status-Status}\n", "--", *names]
    lines = (await shell.run(ask, deadline_s=COMMAND_S)).stdout.decode(errors="replace").splitlines()
    return frozenset(line.split()[0] for line in lines if line.endswith(" installed"))


async def installed(shell: HostShell) -> frozenset[str]:
    """Every package that is installed on a host."""
    return await _packages(shell, ())


async def _files(shell: HostShell, paths: Sequence[str]) -> dict[str, str]:
    found = {}
    for path in await present(shell, paths):
        try:
            found[path] = (await shell.read_file(path, deadline_s=COMMAND_S)).decode()
        except UnicodeDecodeError as error:
            raise HostSetupError(
                f"{path} on {shell.name} is no text. It was left as it is.", hint="Look at what it is."
            ) from error
    return found


async def present(shell: HostShell, paths: Sequence[str]) -> list[str]:
    """Which of these there are."""
    told = await shell.run(
        ["sh", "-c", 'for path; do [ ! -e "$path" ] || echo "$path"; done', "sh", *paths], deadline_s=COMMAND_S
    )
    return told.stdout.decode(errors="replace").splitlines()


def _listening(table: str) -> frozenset[int]:
    rows = (line.split() for line in table.splitlines())
    return frozenset(int(row[1].rpartition(":")[2], 16) for row in rows if len(row) > 3 and row[3] == _LISTENING)


async def resolve(shell: HostShell, names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """What names are on a host, as libvirt and QEMU resolve them; nothing for one that leads nowhere.

    Raises:
        HostUnreachable, AnswerNotSeen.
    """
    script = 'for name; do getent ahosts "$name" | while read -r address _; do echo "$name $address"; done; done'
    found: dict[str, tuple[str, ...]] = dict.fromkeys(names, ())
    said = await shell.run(["sh", "-c", script, "sh", *found], deadline_s=COMMAND_S)
    for line in said.stdout.decode(errors="replace").splitlines():
        name, _, address = line.partition(" ")
        found[name] = tuple(dict.fromkeys([*found[name], address]))
    return found


async def guests(shell: HostShell) -> int:
    """How many QEMUs run on a host, whoever started them.

    Raises:
        HostUnreachable, AnswerNotSeen.
        CommandFailed: it cannot be seen.
    """
    script = 'for one in /proc/[0-9]*/exe; do case $(readlink "$one") in */qemu-system-*|*/qemu-kvm) echo "$one";; esac; done; :'
    argv = ["sh", "-c", script]
    return len(checked(shell.name, argv, await shell.run(argv, deadline_s=COMMAND_S)).stdout.splitlines())


async def _mounts(shell: HostShell, paths: Sequence[str]) -> dict[str, str]:
    found = {}
    for path in paths:
        said = await shell.run(["findmnt", "--noheadings", "--output=SOURCE", "--mountpoint", path], deadline_s=COMMAND_S)
        if not said.status:
            found[path] = said.stdout.decode(errors="replace").splitlines()[-1].strip()
    return found


def _firewall(text: str) -> Firewall:
    kind, _, rest = text.partition("\n")
    match kind:
        case FirewallKind.FIREWALLD:
            return Firewall(kind=FirewallKind.FIREWALLD, opened=frozenset(re.findall(r"(\S+)/tcp", rest)))
        case FirewallKind.UFW:
            opened = re.findall(r"^([\d:]+)/tcp\s+ALLOW", rest, re.MULTILINE)
            return Firewall(kind=FirewallKind.UFW, opened=frozenset(port.replace(":", "-") for port in opened))
        case FirewallKind.NFTABLES:
            return _nftables(json.loads(rest))
        case _:
            return Firewall()


def _nftables(ruleset: dict[str, list[dict[str, dict[str, object]]]]) -> Firewall:
    """The first chain that drops what comes in, and the TCP ports that its rules accept before."""
    things = ruleset["nftables"]
    chains = [one["chain"] for one in things if "chain" in one]
    chain = next((one for one in chains if one.get("hook") == "input" and one.get("policy") == "drop"), None)
    if chain is None:
        return Firewall()
    place = (str(chain["family"]), str(chain["table"]), str(chain["name"]))
    rules = [one["rule"] for one in things if "rule" in one]
    own = [rule for rule in rules if (rule["family"], rule["table"], rule["chain"]) == place]
    return Firewall(kind=FirewallKind.NFTABLES, opened=frozenset(port for rule in own for port in _accepted(rule)), chain=place)


def _accepted(rule: dict[str, object]) -> Iterable[str]:
    text = json.dumps(rule.get("expr"))
    if '"accept"' not in text or '"dport"' not in text:
        return ()
    right = re.search(r'"right": (\d+|\{"range": \[(\d+), (\d+)\]\})', text)
    if right is None:
        return ()
    return (f"{right[2]}-{right[3]}" if right[2] else right[1],)
