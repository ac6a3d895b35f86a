"""The files of a guest as two hosts show them, and the proof that a file is one and the same.

Something is put beside it on the one host, and read beside it on the other, each as the user that QEMU runs as. What is put there
has a name that was never used, goes again at once, and is the only thing that is written. What may live here: constant POSIX
scripts and the reading of what they print. What it means is decided in `core.preflight`.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from segue.core.files import Seen
from segue.core.preflight.facts import Files
from segue.hosts.questions import Answer, Question, ask_all
from segue.hosts.shell import HostShell

DEADLINE_S: Final = 8.0
PREFIX: Final = ".segue-proof-"

# Runs something as the user $user; empty: as whoever is logged in.
_AS: Final = r"""
as() {
    if [ -z "$user" ]; then "$@"
    else setpriv --reuid="$user" --regid="$(id -g -- "$user" 2>/dev/null || echo "$user")" --clear-groups -- "$@"; fi
}
"""
# $1 user, $2 directory, $3 "either" where what the login may counts, too, then paths. "may", its number, r and w for what may be
# done with it: of all paths in one process, for to become somebody else takes two. Then, for each that is there: its number,
# device, inode, size, mode, device number, owner, permission bits, file system.
_LOOK: Final = (
    r"""user=$1 either=$3; cd -- "$2" || exit; shift 3"""
    + _AS
    + r"""
rights='number=0
for path; do
    may=-; [ ! -r "$path" ] || may=${may}r; [ ! -w "$path" ] || may=${may}w
    echo "may $number $may"; number=$((number + 1))
done'
{
    as sh -c "$rights" sh "$@"
    [ -z "$either" ] || sh -c "$rights" sh "$@"
    number=0
    for path; do
        if [ -e "$path" ]; then
            system=$(stat -L -f -c %T -- "$path")
            case $system in fuse*) system=$(findmnt -n -o FSTYPE -T "$path" || echo "$system") ;; esac
            echo "$number $(stat -L -c '%d %i %s %f %t:%T %u:%g %a' -- "$path") $system"
        fi
        number=$((number + 1))
    done
} 2>/dev/null
exit 0
"""
)
# $1 user, $2 directory, $3 name, $4 what to put there, then paths. "put" for each plain file beside which it was.
_PUT: Final = (
    r"""user=$1; cd -- "$2" || exit; name=$3 text=$4; shift 4; umask 022"""
    + _AS
    + r"""
for path; do
    real=$(readlink -f -- "$path"); beside=${real%/*}/$name
    [ -f "$real" ] || { echo -; continue; }
    if as sh -c 'printf %s "$1" >"$2"' sh "$text" "$beside" || printf %s "$text" >"$beside"; then echo put; else echo -; fi
done 2>/dev/null
exit 0
"""
)
# $1 user, $2 directory, $3 name, then paths: what is beside each; "-" for nothing.
_GET: Final = (
    r"""user=$1; cd -- "$2" || exit; name=$3; shift 3"""
    + _AS
    + r"""
for path; do
    real=$(readlink -f -- "$path"); text=$(as cat -- "${real%/*}/$name" || cat -- "${real%/*}/$name") && echo "$text" || echo -
done 2>/dev/null
exit 0
"""
)
# $1 directory, $2 name, then paths.
_REMOVE: Final = r"""
cd -- "$1" || exit; name=$2; shift 2
for path; do real=$(readlink -f -- "$path"); rm -f -- "${real%/*}/$name"; done 2>/dev/null
exit 0
"""
# Paths: for each that a QEMU has on its command line as a whole value, the path's number and the pid. Our own words hold it, too.
_USED: Final = r"""
number=0
for path; do
    for line in $(grep -lsF -- "$path" /proc/[0-9]*/cmdline); do
        program=$(readlink "${line%cmdline}exe"); pid=${line#/proc/}
        case ${program##*/} in qemu-system-* | qemu-kvm* | kvm) ;; *) continue ;; esac
        tr '\0' '\n' <"$line" | while IFS= read -r word; do
            case $word in
                "$path" | "$path",* | *[=:,\"]"$path" | *[=:,\"]"$path"[,\"]*) echo "$number ${pid%/*}"; break ;;
            esac
        done
    done
    number=$((number + 1))
done 2>/dev/null
exit 0
"""
# $1 directory, then paths: for each on whose file a process holds a lock, its number and the pid, or "?" where who asks may not
# see whose it is. /proc/locks names no owner of QEMU's locks (fcntl(2), open file description locks), and shows those of every
# container on the same kernel; the owner's fdinfo is proof (proc(5)), and is read only where there is a lock at all.
_LOCKED: Final = r"""
cd -- "$1" || exit; shift; number=0
for path; do
    if inode=$(stat -L -c %i -- "$path") && grep -q ":$inode " /proc/locks; then
        owner=
        for info in $(grep -rls "^lock:.*:$inode " /proc/[0-9]*/fdinfo); do
            pid=${info#/proc/}; pid=${pid%%/*}
            if [ "/proc/$pid/fd/${info##*/}" -ef "$path" ]; then owner=$pid; break; fi
        done
        [ -n "$owner" ] || [ "$(id -u)" = 0 ] || owner='?'
        [ -z "$owner" ] || echo "$number $owner"
    fi
    number=$((number + 1))
done 2>/dev/null
exit 0
"""
# $1 directory, then directories: the room in each, in bytes.
_FREE: Final = r"""
cd -- "$1" || exit; shift
for path; do set -- $(stat -f -c '%a %S' -- "$path" || echo 0 0); echo $(($1 * $2)); done 2>/dev/null
exit 0
"""
_LISTENING: Final = r"""
for table in tcp tcp6; do
    while read -r _ local _ state _; do [ "$state" != 0A ] || echo "${local##*:}"; done <"/proc/net/$table"
done 2>/dev/null
exit 0
"""
_ADDRESSES: Final = "ip -o addr show"
# "yes" where the source's libvirt takes more for shared than file systems that are (qemu.conf, shared_filesystems, libvirt 10.9);
# "?" where who asks may not read that.
_DECLARED: Final = r"""
conf=/etc/libvirt/qemu.conf
if [ ! -e "$conf" ]; then echo no
elif [ ! -r "$conf" ]; then echo '?'
elif grep -q '^[[:space:]]*shared_filesystems' "$conf"; then echo yes
else echo no; fi
"""
_IS_BLOCK: Final = 0x6000  # S_IFBLK of S_IFMT (inode(7))


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is to be looked for.

    Attributes:
        paths: every file.
        written: those of them that the guest writes to.
        rooms: directories whose room is of interest.
        ports, addresses: those are of interest, too.
        directory: where relative paths begin.
        users: whom QEMU runs as on the source, and on the destination.
        given: what is missing of rights there is given by whoever starts QEMU, as libvirt does (qemu.conf, dynamic_ownership).
    """

    paths: tuple[str, ...]
    written: tuple[str, ...] = ()
    rooms: tuple[str, ...] = ()
    ports: bool = False
    addresses: bool = False
    directory: str = "/"
    users: tuple[str, str] = ("", "")
    given: bool = False


async def compare(source: HostShell, destination: HostShell, wanted: Wanted) -> Files:
    """Look at both hosts, and prove what is one file.

    Raises:
        HostUnreachable, AnswerNotSeen, HypervisorError: one of them does not answer.
    """
    user, other = wanted.users
    directory = wanted.directory or "/"
    name, text = f"{PREFIX}{secrets.token_hex(8)}", secrets.token_hex(16)
    asked_here = [_look(user, wanted)]
    asked_here += [Question(name="declared", script=_DECLARED)] if wanted.given else []
    asked_there = [_look(other, wanted)]
    asked_there += [Question(name="free", script=_FREE, words=(directory, *wanted.rooms))] if wanted.rooms else []
    asked_there += [Question(name="ports", script=_LISTENING)] if wanted.ports else []
    asked_there += [Question(name="addresses", script=_ADDRESSES)] if wanted.addresses else []
    if wanted.written:
        asked_here += [Question(name="put", script=_PUT, words=(user, directory, name, text, *wanted.written))]
        asked_there += [Question(name="used", script=_USED, words=wanted.written)]
        asked_there += [Question(name="locked", script=_LOCKED, words=(directory, *wanted.written))]
    looking = asyncio.create_task(ask_all(destination, asked_there, deadline_s=DEADLINE_S))
    got: Mapping[str, Answer] = {}
    try:
        here = await ask_all(source, asked_here, deadline_s=DEADLINE_S)
        if wanted.written:
            get = Question(name="get", script=_GET, words=(other, directory, name, *wanted.written))
            got = await ask_all(destination, [get], deadline_s=DEADLINE_S)
        there = await looking
    finally:
        looking.cancel()
        await asyncio.gather(looking, return_exceptions=True)
        if wanted.written:
            remove = Question(name="remove", script=_REMOVE, words=(directory, name, *wanted.written))
            await asyncio.shield(ask_all(source, [remove], deadline_s=DEADLINE_S))
    return Files(
        here=_seen(here["look"], wanted.paths),
        there=_seen(there["look"], wanted.paths),
        proven={
            path: answer == text
            for path, was_put, answer in zip(wanted.written, _lines(here, "put"), _lines(got, "get"), strict=False)
            if was_put == "put"
        },
        used={wanted.written[int(row[0])]: int(row[1]) for row in map(str.split, _lines(there, "used")) if len(row) == 2},
        locked={
            wanted.written[int(row[0])]: int(row[1]) if row[1].isdigit() else None
            for row in map(str.split, _lines(there, "locked"))
            if len(row) == 2
        },
        free_bytes={path: int(line) for path, line in zip(wanted.rooms, _lines(there, "free"), strict=False)},
        listening=frozenset(int(line, 16) for line in _lines(there, "ports")),
        addresses=frozenset(_addresses(_lines(there, "addresses"))),
        declared=_lines(here, "declared") not in ([], ["no"]),
    )


def _look(user: str, wanted: Wanted) -> Question:
    return Question(
        name="look", script=_LOOK, words=(user, wanted.directory or "/", "either" if wanted.given else "", *wanted.paths)
    )


def _lines(answers: Mapping[str, Answer], name: str) -> list[str]:
    return answers[name].text.splitlines() if name in answers else []


def _addresses(lines: Sequence[str]) -> list[str]:
    """Of lines as ``2: eth0    inet 10.0.7.11/24 brd …``."""
    rows = (line.split() for line in lines)
    return [row[3].partition("/")[0] for row in rows if len(row) > 3 and row[2] in ("inet", "inet6")]


def _seen(answer: Answer, paths: Sequence[str]) -> dict[str, Seen]:
    rows = [line.split(maxsplit=8) for line in answer.text.splitlines()]
    may: dict[str, str] = {}
    for row in rows:
        if row[:1] == ["may"]:
            may[row[1]] = may.get(row[1], "") + row[2]
    found = {}
    for row in rows:
        if len(row) != 9 or not row[0].isdigit():  # what a shell complains of
            continue
        number, device, inode, size, mode, node, owner, bits, system = row
        is_block = int(mode, 16) & 0xF000 == _IS_BLOCK
        found[paths[int(number)]] = Seen(
            identity=f"device {node}" if is_block else f"{device}:{inode}",
            inode=inode,
            size_bytes=int(size),
            filesystem=system,
            is_device=is_block,
            may_write="w" in may.get(number, ""),
            may_read="r" in may.get(number, ""),
            owner=f"{owner} {bits}",
        )
    return found
