"""Whether the destination has the files that a guest needs. What may live here: shell commands that look at files and ports.

Each is one constant script, with everything that varies as its arguments.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from segue.core import files
from segue.core.files import Seen, Use
from segue.core.twin import Port
from segue.drivers.qemu.processes import Process
from segue.errors import CommandFailed, PrepareFailed
from segue.hosts import HostShell
from segue.hosts.shell import checked

LOOK_DEADLINE_S: Final = 10.0
SUM_DEADLINE_S: Final = 600.0
"""For reading whole files on both hosts: an installation medium of 8 GiB at 100 MB/s takes 80 s."""

# $1 directory, $2 user or nothing, $3 tables of /proc/net, then paths. For those that are there, in three blocks: a line with the
# number of each and whether the user may write to it; its device, inode, size, mode and device number; its file system. A fourth
# is the kernel's boot and all that is in those tables. The fewer commands, the faster: 2, whatever is looked for. The tables are
# slow, 16 ms each were seen: the kernel goes through all that could be in them.
_LOOK: Final = r"""
cd -- "$1" || exit; user=$2 tables=$3 number=0; shift 3
may_write() {
    if [ -z "$user" ]; then [ -w "$1" ]
    else setpriv --reuid="$user" --regid="$(id -g -- "$user")" --init-groups -- test -w "$1" 2>/dev/null; fi
}
for path; do
    shift
    if [ -e "$path" ]; then
        set -- "$@" "$path"
        access=-; may_write "$path" && access=w
        echo "$number $access"
    fi
    number=$((number + 1))
done
echo .; [ "$#" = 0 ] || stat -L -c '%d %i %s %f %t:%T' -- "$@"
echo .; [ "$#" = 0 ] || stat -L -f -c %T -- "$@"
echo .; read -r boot </proc/sys/kernel/random/boot_id; echo "$boot"
for table in $tables; do
    while read -r _ local _ state _; do echo "$table ${local##*:} $state"; done <"/proc/net/$table"
done 2>/dev/null
exit 0
"""
# $1 directory, then paths: a line for each with its checksum, the paths not repeated.
_SUM: Final = r"""cd -- "$1" || exit; shift; for path; do sha256sum -- "$path" | cut -d ' ' -f 1; done"""

_IS_BLOCK: Final = 0x6000  # S_IFBLK of S_IFMT (inode(7))
_LISTENS: Final = {"tcp": "0A", "udp": "07"}  # net/tcp_states.h: TCP_LISTEN; a bound UDP socket shows TCP_CLOSE


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What a host shows.

    Attributes:
        asked: the paths that were looked for.
        seen: what was there, by path.
        boot: of its kernel.
        taken: the ports that somebody listens on.
    """

    asked: frozenset[str]
    seen: dict[str, Seen]
    boot: str
    taken: frozenset[Port]


async def look(shell: HostShell, like: Process, paths: Sequence[str], *, ports: bool = False) -> Look:
    """Look at files, from the directory and as the user of a process, and where wanted at the ports that are taken.

    Raises:
        CommandFailed: the directory is not there.
        HostUnreachable, AnswerNotSeen: the host does not answer.
    """
    script = ["sh", "-c", _LOOK, "sh", like.cwd or "/", like.user, "tcp tcp6 udp udp6" if ports else "", *paths]
    done = checked(shell.name, script, await shell.run(script, deadline_s=LOOK_DEADLINE_S))
    access, inodes, systems, rest = (block.splitlines() for block in os.fsdecode(done.stdout).split(".\n", 3))
    rows = (" ".join(row).split(maxsplit=7) for row in zip(access, inodes, systems, strict=True))
    return Look(
        asked=frozenset(paths),
        seen={paths[int(number)]: _seen(*words) for number, *words in rows},
        boot=rest[0],
        taken=frozenset(_ports(rest[1:])),
    )


def _seen(access: str, device: str, inode: str, size: str, mode: str, number: str, filesystem: str) -> Seen:
    is_block = int(mode, 16) & 0xF000 == _IS_BLOCK
    return Seen(
        identity=f"device {number}" if is_block else f"{device}:{inode}",
        inode=inode,
        size_bytes=int(size),
        filesystem=filesystem,
        is_device=is_block,
        may_write=access == "w",
    )


def _ports(lines: Sequence[str]) -> list[Port]:
    found: list[Port] = []
    for line in lines:
        table, _, rest = line.partition(" ")
        number, _, state = rest.partition(" ")
        protocol = table.removesuffix("6")
        if state == _LISTENS.get(protocol):
            found.append((protocol, int(number, 16)))
    return found


async def look_at_both(
    source: HostShell, destination: HostShell, like: Process, paths: Sequence[str], *, ports: bool = False
) -> tuple[Look, Look]:
    """Look at the same files on both hosts at once, and at the ports of the destination. Raises as `look`."""
    return await asyncio.gather(look(source, like, paths), look(destination, like, paths, ports=ports))


async def check(
    source: HostShell, destination: HostShell, like: Process, wanted: Sequence[Use], looks: tuple[Look, Look]
) -> None:
    """See that the destination has the same files; those that may be copies are read on both hosts.

    Raises:
        PrepareFailed: it has not; with every file.
        HostUnreachable, AnswerNotSeen: a host does not answer.
    """
    names = (source.name, destination.name)
    here, there = looks[0].seen, looks[1].seen
    later = [use.path for use in wanted if use.path not in looks[0].asked]
    if later:  # what came since the start, and what lies under a disk
        more = await look_at_both(source, destination, like, later)
        here, there = {**here, **more[0].seen}, {**there, **more[1].seen}
    wrong, compare = files.judged(wanted, here, there, one_machine=looks[0].boot == looks[1].boot, names=names)
    if not wrong and compare:
        sums = await asyncio.gather(*(_sums(shell, like.cwd, compare) for shell in (source, destination)))
        wrong = tuple(
            f"{path} on {names[1]} has other contents than on {names[0]}"
            for path, mine, theirs in zip(compare, *sums, strict=True)
            if mine != theirs
        )
    if wrong:
        raise PrepareFailed(
            f"{'; '.join(wrong)[:1].upper()}{'; '.join(wrong)[1:]}.",
            hint=f"{names[1]} needs the same files at the same paths with the same rights: on storage that both share, or copies "
            "where they are only read.",
        )


async def _sums(shell: HostShell, cwd: str, paths: Sequence[str]) -> list[str]:
    script = ["sh", "-c", _SUM, "sh", cwd or "/", *paths]
    try:
        done = checked(shell.name, script, await shell.run(script, deadline_s=SUM_DEADLINE_S))
    except CommandFailed as error:
        raise PrepareFailed(f"A file that the guest needs cannot be read on {shell.name}: {error.stderr.strip()}.") from error
    return done.stdout.decode().splitlines()
