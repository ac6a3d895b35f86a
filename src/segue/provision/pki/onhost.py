"""Certificates on a host: look at them, put them there all at once, tell libvirt.

A private key crosses the connection as bytes that a command reads or writes; it is in no command line and in no error.
What may live here: what goes through a `HostShell`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

from segue.core.pki import (
    CERTIFICATE,
    DH_PARAMETERS,
    DIRECTORIES,
    FFDHE2048,
    FILES,
    IDENTITIES,
    KEY,
    KEY_MODE,
    PUBLIC_MODE,
    REVOKED,
    TRUST,
    FileSeen,
    HostSeen,
    Identity,
    Service,
    Shown,
)
from segue.errors import CommandFailed, PkiError
from segue.hosts import HostShell
from segue.hosts.shell import checked
from segue.provision.pki import x509
from segue.provision.pki.x509 import Parsed

if TYPE_CHECKING:
    from segue.provision.pki.authority import Issued

T = TypeVar("T")

COMMAND_S: Final = 30.0
_QEMU_CONF: Final = "/etc/libvirt/qemu.conf"
_USER: Final = re.compile(r'^\s*user\s*=\s*["\']\+?([^"\']+)["\']', re.MULTILINE)
_USERS: Final = ("libvirt-qemu", "qemu", "root")
"""As whom QEMU runs where nobody says: Debian and Ubuntu; Fedora and its kin; where libvirt is not installed."""
_FIND_USER: Final = 'for user; do id -un -- "$user" 2>/dev/null && id -gn -- "$user" && exit; done; exit 1'
_LISTENING: Final = "0A"  # net/tcp_states.h, as /proc/net/tcp writes it
_DAEMONS: Final = {"libvirtd": "/run/libvirt/libvirt-admin-sock", "virtproxyd": "/run/libvirt/virtproxyd-admin-sock"}
"""Who may hold the TLS port (libvirt, docs/daemons.rst), and how to reach its administration."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Looked:
    """What was seen on a host, and the files of whom it believes, and whom no more, as they are."""

    seen: HostSeen
    trust: Mapping[Service, bytes]
    revoked: Mapping[Service, bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """A file to put on a host; its content is not shown by `repr`."""

    path: str
    content: bytes = field(repr=False)
    mode: int = PUBLIC_MODE
    owner: str = "root"


# --- look


async def look(shell: HostShell) -> Looked:
    """Everything that lies on a host.

    Raises:
        HostUnreachable, AnswerNotSeen, CommandFailed.
    """
    user, group = await qemu_user(shell)
    hostname = checked(shell.name, ["hostname"], await shell.run(["hostname"], deadline_s=COMMAND_S)).stdout.decode().strip()
    files = await _stat(shell, FILES)
    contents = await _contents(shell, files)
    nobody: list[Parsed] = []
    none: frozenset[tuple[str, int]] = frozenset()
    trusted = {service: contents.understood(path, x509.read, nobody) for service, path in TRUST.items()}
    revoked = {
        service: contents.understood(path, partial(x509.revoked_by, trusted=trusted[service]), none)
        for service, path in REVOKED.items()
    }
    shown = {one: _shown(one, contents, trusted[one.service], revoked[one.service]) for one in IDENTITIES}
    seen = HostSeen(
        host=shell.name,
        hostname=hostname,
        qemu_user=user,
        qemu_group=group,
        files=files,
        trusted={
            service: contents.understood(path, lambda pem: tuple(x509.facts(ca) for ca in x509.read(pem)), ())
            for service, path in TRUST.items()
        },
        shown=shown,
        broken=contents.broken,
    )
    return Looked(
        seen=seen,
        trust={service: contents.read.get(path, b"") for service, path in TRUST.items()},
        revoked={service: contents.read.get(path, b"") for service, path in REVOKED.items()},
    )


def _shown(identity: Identity, contents: _Contents, trusted: Sequence[Parsed], revoked: frozenset[tuple[str, int]]) -> Shown:
    path = CERTIFICATE[identity]
    first = contents.understood(path, lambda pem: x509.read(pem)[0], None)
    certificate = contents.understood(path, lambda pem: x509.facts(x509.read(pem)[0]), None)
    key = contents.understood(KEY[identity], x509.key_print, "")
    if first is None or certificate is None:
        return Shown(certificate=None, key=key)
    signer = x509.signer(first, trusted)
    return Shown(certificate=certificate, signer=signer, revoked=(signer, certificate.serial) in revoked, key=key)


async def qemu_user(shell: HostShell) -> tuple[str, str]:
    """As whom QEMU runs on a host: user and group.

    Raises:
        HostUnreachable, AnswerNotSeen.
        PkiError: qemu.conf names a user that there is not.
    """
    try:
        named = _USER.search((await shell.read_file(_QEMU_CONF, deadline_s=COMMAND_S)).decode(errors="replace"))
    except CommandFailed:  # a host without libvirt, or whose configuration this user may not read
        named = None
    users = (named[1],) if named else _USERS
    found = await shell.run(["sh", "-c", _FIND_USER, "sh", *users], deadline_s=COMMAND_S)
    if found.status:
        raise PkiError(f"{_QEMU_CONF} on {shell.name} names {users[0]}, and there is no such user.", hint="Mend that file first.")
    user, group = found.stdout.decode().split("\n")[:2]
    return user, group


async def _stat(shell: HostShell, paths: Sequence[str]) -> dict[str, FileSeen]:
    # A status that is not zero says that one is missing; that is no failure, and the others are told all the same.
    told = await shell.run(["stat", "-L", r"--printf=%n\t%a\t%U\t%G\n", "--", *paths], deadline_s=COMMAND_S)
    lines = (line.split("\t") for line in told.stdout.decode(errors="replace").splitlines())
    return {path: FileSeen(mode=int(mode, 8), owner=owner, group=group) for path, mode, owner, group in lines}


@dataclass(frozen=True, slots=True)
class _Contents:
    """Files that could be read, and why others could not, or make no sense."""

    read: dict[str, bytes]
    broken: dict[str, str]

    def understood(self, path: str, read: Callable[[bytes], T], otherwise: T) -> T:
        """What `read` makes of a file; `otherwise` where it is missing or makes no sense, which is then in `broken`."""
        if path not in self.read:
            return otherwise
        try:
            return read(self.read[path])
        except PkiError as error:
            self.broken[path] = error.message
            return otherwise


async def _contents(shell: HostShell, files: Iterable[str]) -> _Contents:
    contents = _Contents({}, {})
    for path in files:
        try:
            contents.read[path] = await shell.read_file(path, deadline_s=COMMAND_S)
        except CommandFailed as error:
            contents.broken[path] = f"cannot be read: {error.stderr.strip() or error.status}"
    return contents


# --- put there

# $1 is how many directories follow; after them come, for each file, its path, mode, owner and length. The contents come on stdin,
# one after the other. Nothing takes the place of anything before all is there, and on disk; a rename that fails takes back those
# before.
_PLACE: Final = r"""
umask 077
trap '' HUP INT TERM PIPE
made= placing=
undo() {
  while [ $# -gt 0 ]; do
    rm -f -- "$1.segue-new"
    if [ "$1" -ef "$1.segue-old" ]; then rm -f -- "$1.segue-old" # mv does nothing to two names of one file
    elif [ -e "$1.segue-old" ]; then mv -f -- "$1.segue-old" "$1"
    elif [ -n "$placing" ]; then rm -f -- "$1"
    fi
    shift 4
  done
  [ -z "$made" ] || rmdir -- $made 2>/dev/null
  exit 1
}
count=$1; shift
while [ "$count" -gt 0 ]; do
  if ! [ -d "$1" ]; then
    mkdir -- "$1" || { [ -z "$made" ] || rmdir -- $made; exit 1; }
    made="$1 $made"
    chmod 0755 -- "$1"
  fi
  shift; count=$((count - 1))
done
each() {
  step=$1; shift
  while [ $# -gt 0 ]; do "$step" "$@" || return; shift 4; done
}
stage() {
  rm -f -- "$1.segue-new" "$1.segue-old" && : >"$1.segue-new" && chown -- "$3" "$1.segue-new" && chmod -- "$2" "$1.segue-new" &&
    head -c "$4" >"$1.segue-new" && sync -- "$1.segue-new" || return
  [ "$(wc -c <"$1.segue-new")" -eq "$4" ] || { echo "only a part of $1 arrived" >&2; return 1; }
}
keep() { ! [ -e "$1" ] || ln -- "$1" "$1.segue-old"; }
swap() { mv -f -- "$1.segue-new" "$1"; }
forget() { rm -f -- "$1.segue-old"; }
settle() { sync -- "${1%/*}"; }
each stage "$@" && each keep "$@" || undo "$@"
placing=yes
each swap "$@" || undo "$@"
each forget "$@"
each settle "$@"
"""


async def place(shell: HostShell, files: Sequence[Placed], *, directories: Sequence[str] = DIRECTORIES) -> None:
    """Put files on a host, all of them or none; each has its owner and mode before it has its content.

    Raises:
        PkiError: a file cannot be put there: nothing was changed; with the reason.
        HostUnreachable, AnswerNotSeen: all of it may be there, or none.
    """
    words = [word for file in files for word in (file.path, f"{file.mode:o}", file.owner, str(len(file.content)))]
    argv = ["sh", "-c", _PLACE, "sh", str(len(directories)), *directories, *words]
    done = await shell.run(argv, stdin=b"".join(file.content for file in files), deadline_s=COMMAND_S)
    if done.status:
        lines = done.complaint.splitlines()
        raise PkiError(
            f"Certificates cannot be put on {shell.name}: {lines[0] if lines else done.status}. Nothing was changed there.",
            hint="It takes root's rights there, room on the disk, and an /etc that can be written.",
        )


def trust_files(trust: Mapping[Service, bytes]) -> list[Placed]:
    """Whom a host is to believe."""
    return [Placed(path=path, content=trust[service]) for service, path in TRUST.items()]


def revoked_files(lists: Mapping[Service, bytes]) -> list[Placed]:
    """Whom it is to believe no more."""
    return [Placed(path=path, content=lists[service]) for service, path in REVOKED.items()]


def identity_files(issued: Issued, qemu: str) -> list[Placed]:
    """What a host needs in order to be believed, and what spares its QEMUs work when they are.

    Args:
        issued: its keys and certificates.
        qemu: the user as whom QEMU runs there.
    """
    owner = {Service.LIBVIRT: "root", Service.QEMU: qemu}
    files = []
    for identity, pair in issued.pairs.items():
        files.append(Placed(path=CERTIFICATE[identity], content=pair.certificate))
        files.append(Placed(path=KEY[identity], content=pair.key, mode=KEY_MODE, owner=owner[identity.service]))
    return [*files, Placed(path=DH_PARAMETERS, content=FFDHE2048)]


async def reload(shell: HostShell, port: int) -> bool:
    """Let a libvirt daemon that serves TLS on that port read its files again; connections that are open stay open.

    QEMU needs nothing: each migration reads them when it begins. libvirtd 9.0.0 can die of it while somebody shakes hands with it
    (seen once, SIGSEGV in GnuTLS): docs/guide/certificates.md.

    Returns:
        Whether there was such a daemon.

    Raises:
        PkiError: it would not; with its own words.
    """
    if not _listens(await _tcp(shell), port):
        return False
    for daemon, socket in _DAEMONS.items():
        if (await shell.run(["test", "-S", socket], deadline_s=COMMAND_S)).status:
            continue
        argv = ["virt-admin", "-q", "-c", f"{daemon}:///system", "server-update-tls", daemon]
        done = await shell.run(argv, deadline_s=COMMAND_S)
        if done.status:
            raise PkiError(
                f"The files are on {shell.name}, and {daemon} there did not read them: {done.complaint or done.status}.",
                hint=f"It does when it starts anew: 'systemctl restart {daemon}' on {shell.name}, while no guest is on the move.",
            )
        return True
    return False


async def _tcp(shell: HostShell) -> str:
    return (await shell.run(["cat", "/proc/net/tcp", "/proc/net/tcp6"], deadline_s=COMMAND_S)).stdout.decode(errors="replace")


def _listens(table: str, port: int) -> bool:
    """Whether the kernel's table of TCP sockets has one that listens on that port."""
    rows = (line.split() for line in table.splitlines())
    return any(len(row) > 3 and row[3] == _LISTENING and row[1].endswith(f":{port:04X}") for row in rows)
