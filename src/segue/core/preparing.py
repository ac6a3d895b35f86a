"""What a host needs in order to give and take guests: from what is seen there to the steps that lead there.

A step is plain data: packages, a file's new content, certificates, or a command with the command that takes it back. Whoever
carries steps out (`segue.provision.host`) writes each down on the host first, so that all of them can be taken back in reverse
order, to the byte. A host that is as it should be needs no steps: that is how preparing may be repeated, and how it is verified.

How a daemon is made to listen (libvirt, docs/daemons.rst, "Socket activation" and "Switching to socket activation"): where
systemd holds the sockets, ``listen_tls`` and ``listen_tcp`` mean nothing and a socket unit decides; it cannot start while its
service runs. Elsewhere the two settings count, and only with ``--listen``.

What may live here: the nouns, and the decisions. No step is done here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

from segue.core import confedit
from segue.core.confedit import Value
from segue.core.firewalls import open_steps
from segue.core.hostchecks import is_loopback
from segue.core.hostfacts import (
    DROP_IN,
    EXPORTS,
    HOSTS,
    NFS_CLIENT,
    NFS_SERVER,
    PACKAGES,
    QEMU_CONF,
    QEMU_PKI,
    TIME_SERVICE,
    UNIT_DIRECTORY,
    Daemon,
    Init,
    Seen,
    Share,
    Wanted,
    ports_needed,
)
from segue.core.pki import FILES, MAY_LACK, MIGRATION_PORTS
from segue.core.steps import Certificates, Command, File, Install, Step
from segue.errors import RefusedError

_BEGIN: Final = "# begin: hosts of Segue's fleet"
_END: Final = "# end: hosts of Segue's fleet"
_BLANK_UUIDS: Final = frozenset({"", "0" * 32, "f" * 32, "03000200040005000006000700080009"})
"""What firmware says that was given no UUID: nothing, zeros, ones, and the one that whole series of boards share."""


def packages(seen: Seen, wanted: Wanted) -> tuple[str, ...]:
    """The packages that are missing.

    Raises:
        RefusedError: some are, and the host has no apt.
    """
    names = [NFS_SERVER] if wanted.exports else [*PACKAGES, *([NFS_CLIENT] if _unmounted(seen, wanted) else [])]
    if _drifts(seen):
        names.append(TIME_SERVICE)
    missing = tuple(name for name in names if name not in seen.packages)
    if missing and not seen.apt:
        raise RefusedError(
            f"{seen.host} lacks packages, and has no apt: only Debian, Ubuntu and their kin can be prepared.",
            hint=f"Install what these are called there: {', '.join(missing)}.",
        )
    return missing


def plan(seen: Seen, wanted: Wanted, *, fresh: bool = False) -> tuple[Step, ...]:
    """The steps from a host as it is to one that can give and take guests; none where it can.

    Where packages are missing, the rest is what will follow from what they bring: it is decided again when they are there.

    Args:
        seen: the host as it is.
        wanted: what it is to be.
        fresh: its packages have come just now.

    Raises:
        RefusedError: it cannot be prepared as asked, or has a part of the certificates that it needs.
        HostSetupError: a file there cannot be understood.
    """
    if wanted.insecure and not wanted.tcp:
        raise RefusedError("--insecure-lab says how TCP is let in, and TCP is not wanted.", hint="Add --tcp, or leave both out.")
    missing = packages(seen, wanted)
    steps: list[Step] = [Install(packages=missing)] if missing else []
    if _drifts(seen) and TIME_SERVICE in seen.packages:
        on, off = (("systemctl", word, "--now", f"{TIME_SERVICE}.service") for word in ("enable", "disable"))
        steps.append(Command(title="keep its clock in step", argv=on, undo=off))
    steps += _names(seen, wanted)
    steps += _exports(seen, wanted) if wanted.exports else _host_of_guests(seen, wanted, fresh=fresh or bool(missing))
    if wanted.firewall:
        steps += open_steps(seen.firewall, ports_needed(wanted))
    return tuple(steps)


def _drifts(seen: Seen) -> bool:
    """Whether nothing keeps its clock in step, and something should: a container's is that of the machine that it runs on."""
    return seen.init is Init.SYSTEMD and not (seen.container or seen.time_service)


def _host_of_guests(seen: Seen, wanted: Wanted, *, fresh: bool) -> list[Step]:
    steps: list[Step] = []
    if not seen.certificates:
        steps.append(Certificates())
    elif lacking := sorted(set(FILES) - set(MAY_LACK) - seen.certificates):
        raise RefusedError(
            f"{seen.host} has some certificates, and not all: {', '.join(lacking)} is missing.",
            hint=f"'segue pki verify {seen.host}' tells more; 'segue pki install {seen.host}' puts there what Segue's CA issued.",
        )
    return [*steps, *_daemon(seen, wanted, fresh=fresh), *_mounts(seen, wanted)]


# --- libvirt and QEMU


def _daemon(seen: Seen, wanted: Wanted, *, fresh: bool) -> list[Step]:
    """Files, then sockets. The daemon is stopped and started around them, and around what takes them back."""
    daemon = seen.daemon
    files = [
        *_edit(seen, daemon.conf, _daemon_settings(seen, wanted)),
        *_edit(seen, QEMU_CONF, _qemu_settings(wanted)),
    ]
    if seen.init is Init.NONE:
        return _without_systemd(seen, files)
    if not seen.socket_activated:
        files += _listen_drop_in(seen, daemon)
    sockets = _sockets(seen, wanted) if seen.socket_activated else []
    if not (files or sockets or fresh):
        return []
    stop = ["systemctl", "stop", *daemon.restarted]
    start = ["systemctl", "start", *reversed(daemon.restarted)]
    reload = Command(title="systemd reads its units", argv=("systemctl", "daemon-reload"), undo=("systemctl", "daemon-reload"))
    return [
        Command(title="", argv=(), undo=tuple(start)),
        *files,
        *([] if seen.socket_activated else [reload]),
        Command(title=f"stop {daemon.name}; guests go on", argv=tuple(stop), undo=()),
        *sockets,
        Command(title=f"start {daemon.name}", argv=tuple(start), undo=tuple(stop)),
    ]


def _daemon_settings(seen: Seen, wanted: Wanted) -> dict[str, Value]:
    present = confedit.read(seen.daemon.conf, seen.files.get(seen.daemon.conf, ""))
    settings: dict[str, Value] = {}
    if not seen.socket_activated:
        settings |= {"listen_tls": 1} | ({"listen_tcp": 1} if wanted.tcp else {})
    for guard in ("tls_no_verify_certificate", "tls_no_sanity_certificate"):
        if present.get(guard):
            settings[guard] = 0
    if not seen.certificates and "tls_allowed_dn_list" not in present:
        settings["tls_allowed_dn_list"] = ("*OU=libvirt*",)  # docs/guide/certificates.md: QEMU's own keys open nothing
    if wanted.tcp and wanted.insecure:
        settings["auth_tcp"] = "none"
    elif wanted.tcp and present.get("auth_tcp") == "none":
        settings["auth_tcp"] = "sasl"  # libvirt's own default
    if _uuid_is_no_use(seen, wanted) and "host_uuid" not in present:
        settings["host_uuid_source"] = "machine-id"
    return settings


def _uuid_is_no_use(seen: Seen, wanted: Wanted) -> bool:
    """Hosts of one UUID: libvirt refuses to move a guest between them ("Attempt to migrate guest to the same host")."""
    return seen.uuid in _BLANK_UUIDS or seen.uuid in wanted.uuids


def _qemu_settings(wanted: Wanted) -> dict[str, Value]:
    settings: dict[str, Value] = {"migrate_tls_x509_cert_dir": QEMU_PKI, "migrate_tls_x509_verify": 1}
    if wanted.address:
        settings |= {"migration_address": wanted.address, "migration_host": wanted.address}
    if wanted.ports != MIGRATION_PORTS:
        settings |= {"migration_port_min": wanted.ports[0], "migration_port_max": wanted.ports[1]}
    return settings


def _edit(seen: Seen, path: str, settings: Mapping[str, Value]) -> list[Step]:
    before = seen.files.get(path, "")
    after = confedit.edited(path, before, settings)
    return (
        [] if not settings or after == before else [File(path=path, before=seen.files.get(path), after=after, settings=settings)]
    )


def _sockets(seen: Seen, wanted: Wanted) -> list[Step]:
    """Socket units to switch on. TCP's is not switched off: somebody may need it, and is told what it means."""
    steps: list[Step] = []
    for suffix in ("-tls.socket", *(["-tcp.socket"] if wanted.tcp else [])):
        unit = f"{seen.daemon.name}{suffix}"
        now = seen.units.get(unit)
        if now is None or not (now.enabled and now.active):
            on, off = ("systemctl", "enable", "--now", unit), ("systemctl", "disable", "--now", unit)
            steps.append(Command(title=f"listen: {unit}", argv=on, undo=off))
    return steps


_DROP_IN: Final = """\
# Segue: this daemon holds its own sockets, and listens on the network only when told so.
[Service]
Environment={variable}=--listen
"""


def _listen_drop_in(seen: Seen, daemon: Daemon) -> list[Step]:
    path = DROP_IN[daemon.name]
    text = _DROP_IN.format(variable=f"{daemon.name.upper()}_ARGS")
    before = seen.files.get(path)
    return [] if before == text else [File(path=path, before=before, after=text)]


def _without_systemd(seen: Seen, files: Sequence[Step]) -> list[Step]:
    argv = seen.daemon_argv or ("libvirtd", "--daemon")
    listening = argv if {"--listen", "-l"} & set(argv) else (*argv, "--listen")
    if not files and argv == listening == seen.daemon_argv:
        return []
    again = Command(title="", argv=(), undo=restart_argv(seen.daemon_argv) if seen.daemon_argv else stop_argv())
    return [
        again,
        *files,
        Command(title=f"start anew: {' '.join(listening)}; guests go on", argv=restart_argv(listening), undo=()),
    ]


_RESTART: Final = r"""
program=${1##*/}
for pid in $(pgrep -x "$program"); do
  kill "$pid"
  timeout 20 tail --pid="$pid" -f /dev/null || { echo "$program (pid $pid) does not end" >&2; exit 1; }
done
[ $# -eq 1 ] || exec "$@"
"""


def restart_argv(argv: Sequence[str]) -> tuple[str, ...]:
    """The command that ends a daemon which nobody supervises, waits until it has gone, and starts it with these words."""
    return ("sh", "-c", _RESTART, "sh", *argv)


def stop_argv() -> tuple[str, ...]:
    """The command that ends libvirtd."""
    return ("sh", "-c", _RESTART, "sh", "libvirtd")


# --- names


def _names(seen: Seen, wanted: Wanted) -> list[Step]:
    """A block of /etc/hosts, first in the file: the first line that has a name counts (nsswitch.conf, files)."""
    before = seen.files.get(HOSTS, "")
    rest = re.sub(rf"^{re.escape(_BEGIN)}\n.*?^{re.escape(_END)}\n", "", before, flags=re.MULTILINE | re.DOTALL)
    kept = re.findall(r"^(\S+) (\S+)$", before.partition(_BEGIN)[2].partition(_END)[0], re.MULTILINE)
    entries = {name: address for address, name in kept} | dict(wanted.names)
    if not entries:
        return []
    block = "".join(f"{address} {name}\n" for name, address in sorted(entries.items()))
    after = f"{_BEGIN}\n{block}{_END}\n{rest}"
    return [] if after == before else [File(path=HOSTS, before=seen.files.get(HOSTS), after=after)]


def names_to_write(resolved: Mapping[str, tuple[str, ...]], known: Mapping[str, str]) -> dict[str, str]:
    """Which names a host must be told, because they lead nowhere there, or (its own, as installers write it) to itself.

    Args:
        resolved: what each name resolves to on the host.
        known: what each name is, as seen from here.
    """
    return {name: address for name, address in known.items() if not resolved.get(name) or is_loopback(resolved[name])}


# --- storage

_MOUNT: Final = """\
# Segue: disks of guests, at the same path on every host.
[Unit]
Description=Disks of guests from {share.server}

[Mount]
What={share}
Where={share.path}
Type=nfs
Options=rw,hard,proto=tcp

[Install]
WantedBy=remote-fs.target
"""


def _unmounted(seen: Seen, wanted: Wanted) -> list[Share]:
    return [share for share in wanted.shares if share.path not in seen.mounts]


def _exports(seen: Seen, wanted: Wanted) -> list[Step]:
    # Without no_root_squash libvirt, which is root, could not give an image to the user that QEMU runs as.
    options = "(rw,sync,no_subtree_check,no_root_squash)"
    lines = (f"{path} {' '.join(f'{peer}{options}' for peer in wanted.peers)}\n" for path in wanted.exports)
    text = "".join(lines)
    if text == seen.files.get(EXPORTS):
        return []
    export = ("exportfs", "-ra")
    return [
        Command(title="", argv=(), undo=export),
        File(path=EXPORTS, before=seen.files.get(EXPORTS), after=text),
        Command(title="export them", argv=export, undo=()),
    ]


def _mounts(seen: Seen, wanted: Wanted) -> list[Step]:
    """What is mounted. A path at which something is mounted already is taken as it is.

    Raises:
        RefusedError: it is something else; or a share is wanted where no systemd can mount it.
    """
    steps: list[Step] = []
    for share in wanted.shares:
        there = seen.mounts.get(share.path)
        if there is not None and there != str(share):
            raise RefusedError(
                f"At {share.path} on {seen.host} is {there} already, not {share}.", hint="Unmount it, or name that."
            )
    for share in _unmounted(seen, wanted):
        if seen.init is not Init.SYSTEMD:
            raise RefusedError(
                f"{seen.host} has no systemd to mount {share}.", hint=f"Put it into /etc/fstab, and mount {share.path}."
            )
        unit = f"{UNIT_DIRECTORY}/{share.unit}"
        on, off = ("systemctl", "enable", "--now", share.unit), ("systemctl", "disable", "--now", share.unit)
        reload = ("systemctl", "daemon-reload")
        steps.append(Command(title="", argv=(), undo=reload))
        steps.append(File(path=unit, before=seen.files.get(unit), after=_MOUNT.format(share=share)))
        steps.append(Command(title="systemd reads its units", argv=reload, undo=()))
        steps.append(Command(title=f"mount {share}", argv=on, undo=off))
    return steps
