"""The disks of a guest: what its QEMU says of them, and what hosts say of their files.

What may live here: the reading of QMP's answers, shell commands and the reading of what they print. Each is one constant script,
with everything that varies as its arguments. No decision: those are in `core.storage`.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from segue.core.storage import COPIED_FORMATS, PREFIX, Copied, Disk, Layer, Place, Seen, Target
from segue.drivers.qemu.session import Session
from segue.errors import CommandFailed, PrepareFailed
from segue.hosts import HostShell
from segue.hosts.shell import checked

FILES_DEADLINE_S: Final = 20.0
CREATE_DEADLINE_S: Final = 60.0
"""For qemu-img to write the metadata of an empty image: milliseconds, but for storage that is busy."""

# A file name with one of these is no local file: every host gets to the same place by it (QEMU, block/*.c, protocol_name).
_NETWORK: Final = ("nfs", "nbd", "rbd", "iscsi", "ssh", "sftp", "http", "https", "ftp", "ftps", "gluster", "vitastor")
_PROTOCOL: Final = re.compile(r"([A-Za-z][A-Za-z0-9]*)(\+[a-z]+)?:")
# qapi/job.json, JobStatus. A status that is not known is waited on.
ENDED: Final = ("concluded", "null")
_LEVEL: Final = ("ready", "standby")
# qapi/block-core.json, ImageInfoSpecificQCow2, and what `qemu-img create -o` calls the same.
_QCOW2_OPTIONS: Final = {
    "compat": "compat",
    "compression-type": "compression_type",
    "extended-l2": "extended_l2",
    "lazy-refcounts": "lazy_refcounts",
    "refcount-bits": "refcount_bits",
}
_QCOW2_DEFAULTS: Final = {"compression-type": "zlib", "extended-l2": False, "lazy-refcounts": False}
"""Not written down, as an old qemu-img, or compat=0.10, refuses even the words."""

# $1 token, then paths. Puts the token beside each file, and prints for each its inode, permission bits and owner; "-" for none.
# The dot keeps newlines at the end of a name; of what has no directory nothing is left.
_MARK: Final = r"""
token=$1; shift; umask 077
for path; do
    real=$(readlink -nf -- "$path"; echo .); real=${real%.}
    if [ -f "$real" ] && : >"${real%/*}/$token"; then stat -c '%i %a %u:%g' -- "$real"; else echo -; fi
done 2>/dev/null
exit 0
"""
# $1 token, then pairs of a path and the inode that the source's file has. Prints for each what is there, and the file system.
_FIND: Final = r"""
token=$1; shift
while [ $# -gt 0 ]; do
    real=$(readlink -nf -- "$1"; echo .); real=${real%.}; directory=${real%/*}/ seen=no-place
    if [ -e "$directory$token" ] && [ "$(stat -c %i -- "$real")" = "$2" ]; then seen=shared
    elif [ -e "$1" ] || [ -L "$1" ]; then seen=taken
    elif [ -n "$real" ] && [ -d "$directory" ] && [ -w "$directory" ]; then seen=free
    fi
    echo "$seen $(stat -f -c '%i %a %S' -- "$directory" || echo - 0 0)"
    shift 2
done 2>/dev/null
exit 0
"""
# $1 token, then paths: removes the token beside each.
_UNMARK: Final = r"""
token=$1; shift
for path; do
    real=$(readlink -nf -- "$path"; echo .); real=${real%.}
    [ -z "$real" ] || rm -f -- "${real%/*}/$token"
done
"""
# $1 path, $2 its second name, $3 mode, $4 owner, $5 size; then words of qemu-img create without name and size. The file is made
# whole under a name that is only ours and then linked to its own, which fails when that is taken: that the two names are one file
# proves later that it was made here. Only root has guests of other users.
_CREATE: Final = r"""
path=$1 ours=$2 mode=$3 owner=$4 size=$5; shift 5; umask 077
cd -- "${path%/*}/" && rm -f -- "$ours" && "$@" -- "$ours" "$size" && chmod -- "$mode" "$ours" || { rm -f -- "$ours"; exit 1; }
[ -z "$owner" ] || [ "$(id -u)" != 0 ] || chown -- "$owner" "$ours"
ln -- "$ours" "$path" && exit 0
rm -f -- "$ours"; exit 1
"""
# Pairs of a path and its second name: removes the file where both are one, and the second name.
_REMOVE: Final = r"""
while [ $# -gt 0 ]; do
    [ ! "$1" -ef "$2" ] || rm -f -- "$1" || exit 1
    rm -f -- "$2" || exit 1
    shift 2
done
"""


async def of_guest(session: Session, cwd: str) -> tuple[Disk, ...]:
    """The disks that a guest may write to and that are files of its host, in QEMU's order.

    Args:
        session: with its QEMU.
        cwd: the directory of that QEMU.

    Raises:
        HypervisorError: it does not say.
    """
    answer = await session.execute("query-block")
    return read_disks(answer, cwd)


def read_disks(answer: object, cwd: str) -> tuple[Disk, ...]:
    """The same, from an answer of query-block."""
    return tuple(disk for entry in _list(answer) if (disk := _disk(entry, cwd)))


def _disk(entry: Mapping[str, object], cwd: str) -> Disk | None:
    inserted = _dict(entry.get("inserted"))
    if not inserted or inserted.get("ro"):
        return None
    image = _dict(inserted.get("image"))
    path, odd = _file(str(inserted.get("file", "")))
    if not path and not odd:
        return None
    chain = list(_chain(image)) if inserted.get("backing_file_depth") else []
    specific = _dict(_dict(image.get("format-specific")).get("data"))
    top_bytes = _int(image.get("actual-size"))
    return Disk(
        key=str(entry.get("device") or entry.get("qdev") or inserted.get("node-name")),
        node=str(inserted.get("node-name")),
        path=posixpath.join(cwd or "/", path or odd),
        format=str(inserted.get("drv")),
        virtual_bytes=_int(image.get("virtual-size")),
        file=str(inserted.get("file", "")),
        below=tuple(str(below.get("filename")) for below in chain),
        top_bytes=top_bytes,
        used_bytes=top_bytes + sum(_int(below.get("actual-size")) for below in chain),
        backing=str(image.get("backing-filename", "")) if chain else "",
        backing_format=str(image.get("backing-filename-format") or chain[0].get("format")) if chain else "",
        layers=tuple(Layer(format=str(below.get("format")), virtual_bytes=_int(below.get("virtual-size"))) for below in chain),
        options=_options(image, specific),
        obstacle=_obstacle(inserted, image, specific, odd),
    )


def _file(name: str) -> tuple[str, str]:
    """The path of a local file; or nothing, and the name itself where it is one that we cannot judge."""
    if name.startswith("json:"):
        return _from_json(name.removeprefix("json:"))
    protocol = _PROTOCOL.match(name)
    if not protocol:
        return name, ""
    word = protocol[1].lower()
    if word == "file":
        return name.removeprefix("file://").removeprefix("file:"), ""
    return "", "" if word in _NETWORK else name


def _from_json(text: str) -> tuple[str, str]:
    """The same for QEMU's own way to write down what no plain name says (block.c, bdrv_refresh_filename)."""
    options = _dict(json.loads(text))
    while isinstance(options.get("file"), dict):
        options = _dict(options["file"])
    driver = str(options.get("driver", options.get("file.driver", "")))
    if driver == "file":
        return str(options.get("filename", options.get("file.filename", ""))), ""
    return "", "" if driver in _NETWORK else text


def _obstacle(inserted: Mapping[str, object], image: Mapping[str, object], specific: Mapping[str, object], odd: str) -> str:
    """Why a disk cannot be copied faithfully, or empty."""
    reasons = (
        (bool(odd), "Segue does not know what kind of file that is"),
        (inserted.get("drv") not in COPIED_FORMATS, f"its format is {inserted.get('drv')}, not {' or '.join(COPIED_FORMATS)}"),
        (bool(inserted.get("encrypted")), "it is encrypted by QEMU, with a key that Segue does not have"),
        (bool(image.get("snapshots")), "it holds snapshots, which would not come along; remove them, or move it without copying"),
        ("data-file" in specific, "its data lie in another file"),
    )
    return next((why for holds, why in reasons if holds), "")


def _options(image: Mapping[str, object], specific: Mapping[str, object]) -> tuple[str, ...]:
    if image.get("format") != "qcow2":
        return ()
    known = {"cluster_size": image.get("cluster-size")}
    known |= {
        word: specific.get(name)
        for name, word in _QCOW2_OPTIONS.items()
        if name in specific and specific[name] != _QCOW2_DEFAULTS.get(name)
    }
    return tuple(f"{name}={'on' if value is True else value}" for name, value in known.items() if value not in (None, False))


def _chain(image: Mapping[str, object]) -> Iterator[dict[str, object]]:
    while below := _dict(image.get("backing-image")):
        yield below
        image = below


async def shown(
    source: HostShell, destination: HostShell, disks: Sequence[Disk], paths: Mapping[str, str], migration: str
) -> dict[str, Place]:
    """What the destination has where each disk should lie, by the disk's key.

    A file is proven to be shared by a token that is put beside it on the source for that moment and seen beside it on the
    destination, and by its inode; an inode alone may be the same by chance.

    Raises:
        HostUnreachable, AnswerNotSeen: a host does not answer.
    """
    names, token = [disk.path for disk in disks], token_of(migration)
    try:
        marked = await _rows(source, ["sh", "-c", _MARK, "sh", token, *names], len(disks))
        wanted = [word for disk, row in zip(disks, marked, strict=True) for word in (paths[disk.key], row[0])]
        found = await _rows(destination, ["sh", "-c", _FIND, "sh", token, *wanted], len(disks))
    finally:
        await unmark(source, names, migration)
    return {
        disk.key: Place(
            path=paths[disk.key],
            seen=Seen(seen),
            mode=rights[0] if rights else "600",
            owner=rights[1] if rights else "",
            filesystem=filesystem,
            free_bytes=int(blocks) * int(block_bytes),
        )
        for disk, (_, *rights), (seen, filesystem, blocks, block_bytes) in zip(disks, marked, found, strict=True)
    }


async def _rows(shell: HostShell, script: Sequence[str], count: int) -> list[list[str]]:
    """The words of each line that a script prints: one line for each of so many disks."""
    done = checked(shell.name, script, await shell.run(script, deadline_s=FILES_DEADLINE_S))
    rows = [line.split() for line in done.stdout.decode("ascii", errors="replace").splitlines()]
    if len(rows) != count:
        raise CommandFailed(
            host=shell.name, argv=tuple(script), status=done.status, stderr=f"{len(rows)} lines for {count} disks"
        )
    return rows


async def create(shell: HostShell, target: Target, ours: str) -> None:
    """Create an empty file for a disk: format, size and options as on the source.

    Args:
        shell: of the destination.
        target: what and where.
        ours: the second name that it gets, beside it; it shows who made the file.

    Raises:
        PrepareFailed: it cannot be made; nothing is there.
        HostUnreachable, AnswerNotSeen: it may or may not be there; `remove` is right in both cases.
    """
    disk, place = target.disk, target.place
    words = ["qemu-img", "create", "-q", "-f", disk.format]
    words += ["-o", ",".join(disk.options)] if disk.options else []
    words += ["-b", disk.backing, "-F", disk.backing_format] if target.keeps_backing else []
    script = ["sh", "-c", _CREATE, "sh", place.path, ours, place.mode, place.owner, str(disk.virtual_bytes), *words]
    done = await shell.run(script, deadline_s=CREATE_DEADLINE_S)
    if done.status:
        raise PrepareFailed(
            f"{shell.name} cannot make a disk {place.path}: {done.complaint or f'status {done.status}'}",
            hint=f"{shell.name} needs qemu-img, and with --copy-storage inc also the files that the disk stands on.",
        )


async def layers(shell: HostShell, path: str) -> tuple[Layer, ...]:
    """The files below one, from the top, as qemu-img sees them on its host.

    Raises:
        CommandFailed: it cannot be read.
        HostUnreachable, AnswerNotSeen: the host does not answer.
    """
    script = ["qemu-img", "info", "-U", "--backing-chain", "--output=json", "--", path]
    done = checked(shell.name, script, await shell.run(script, deadline_s=CREATE_DEADLINE_S))
    try:
        chain = _list(json.loads(done.stdout))
    except ValueError:
        raise CommandFailed(host=shell.name, argv=tuple(script), status=0, stderr="it printed no JSON") from None
    return tuple(Layer(format=str(one.get("format")), virtual_bytes=_int(one.get("virtual-size"))) for one in chain[1:])


async def remove(shell: HostShell, paths: Sequence[str], migration: str) -> None:
    """Remove the files of these that this migration created; harmless for all others, and twice.

    Raises:
        CommandFailed: one cannot be removed.
        HostUnreachable, AnswerNotSeen: the host does not answer.
    """
    pairs = [word for path in paths for word in (path, ours(path, migration))]
    script = ["sh", "-c", _REMOVE, "sh", *pairs]
    checked(shell.name, script, await shell.run(script, deadline_s=FILES_DEADLINE_S))


async def keep(shell: HostShell, paths: Sequence[str], migration: str) -> None:
    """Take away what tells that these files were created by this migration: they are the guest's now. Harmless twice.

    Raises:
        CommandFailed: one cannot be removed.
        HostUnreachable, AnswerNotSeen: the host does not answer.
    """
    script = ["rm", "-f", "--", *(ours(path, migration) for path in paths)]
    checked(shell.name, script, await shell.run(script, deadline_s=FILES_DEADLINE_S))


async def unmark(shell: HostShell, paths: Sequence[str], migration: str) -> None:
    """Remove the tokens that a process left which died while it looked for shared files. Harmless when there are none."""
    await shell.run(["sh", "-c", _UNMARK, "sh", token_of(migration), *paths], deadline_s=FILES_DEADLINE_S)


def ours(path: str, migration: str) -> str:
    """The second name of a file that this migration created."""
    return f"{path}.{PREFIX}{migration}"


def token_of(migration: str) -> str:
    """The name of what is put beside a file to see whether another host sees it."""
    return f".{PREFIX}{migration}.token"


def read_jobs(answer: object) -> list[dict[str, object]]:
    """Segue's own jobs in an answer of query-jobs."""
    return [job for job in _list(answer) if str(job.get("id", "")).startswith(PREFIX)]


def copied(answer: object) -> Copied:
    """How far the copying is, from an answer of query-jobs. A job that has ended by itself is broken, also without an error."""
    jobs = read_jobs(answer)
    ended = [job for job in jobs if job.get("status") in ENDED]
    return Copied(
        copied_bytes=sum(_int(job.get("current-progress")) for job in jobs),
        total_bytes=sum(_int(job.get("total-progress")) for job in jobs),
        running=tuple(str(job["id"]) for job in jobs if job.get("status") not in (*ENDED, *_LEVEL)),
        level=tuple(str(job["id"]) for job in jobs if job.get("status") in _LEVEL),
        broken="; ".join(f"{job['id']}: {job.get('error', 'it ended')}" for job in ended),
    )


def own_nodes(answer: object) -> list[str]:
    """Segue's own nodes in an answer of query-named-block-nodes."""
    return [name for node in _list(answer) if (name := str(node.get("node-name", ""))).startswith(PREFIX)]


def own_exports(answer: object) -> list[str]:
    """Segue's own exports in an answer of query-block-exports."""
    return [name for export in _list(answer) if (name := str(export.get("id", ""))).startswith(PREFIX)]


def _list(answer: object) -> list[dict[str, object]]:
    return [one for one in answer if isinstance(one, dict)] if isinstance(answer, list) else []


def _dict(value: object) -> dict[str, object]:
    return value if isinstance(value, dict) else {}


def _int(value: object) -> int:
    return value if isinstance(value, int) else 0
