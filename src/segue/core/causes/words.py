"""Why a migration does not succeed: the causes that are known, each with its sentence and its fix.

What may live here: the list, and texts with places in them: ``{here}`` and ``{there}`` are the source and the destination,
``{host}`` is the host whose matter it is, ``{peer}`` the other one, ``{guest}`` the guest, and ``{it}`` what the hypervisor named
(a file, a bridge, an address); ``{raw}`` and ``{message}`` are its words and the sentence that Segue has for them;
``{pair}`` is both names for a command line, or nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Cause(StrEnum):
    """Why it did not succeed. The values are stable: scripts may compare them."""

    DAEMON_REFUSED = "daemon-refused"
    DAEMON_SILENT = "daemon-silent"
    DAEMON_GONE = "daemon-gone"
    NO_ROUTE = "no-route"
    NAME_UNKNOWN = "name-unknown"
    NAME_LOOPBACK = "name-loopback"
    SAME_HOST = "same-host"
    AUTH_REFUSED = "auth-refused"
    SSH_REFUSED = "ssh-refused"
    SSH_HOST_KEY = "ssh-host-key"
    READ_ONLY = "read-only"
    NOT_LIBVIRT = "not-libvirt"
    TLS_NAME = "tls-name"
    TLS_DATES = "tls-dates"
    TLS_REVOKED = "tls-revoked"
    TLS_UNTRUSTED = "tls-untrusted"
    TLS_FILES = "tls-files"
    TLS_FAILED = "tls-failed"
    PORT_REFUSED = "port-refused"
    PORT_SILENT = "port-silent"
    PORT_TAKEN = "port-taken"
    DISPLAY_PORT = "display-port"
    DISPLAY_ADDRESS = "display-address"
    LINK_LOST = "link-lost"
    GUEST_GONE = "guest-gone"
    GUEST_EXISTS = "guest-exists"
    GUEST_OFF = "guest-off"
    GUEST_BUSY = "guest-busy"
    DEVICE_BLOCKS = "device-blocks"
    UNSAFE_STORAGE = "unsafe-storage"
    UNSAFE_CACHE = "unsafe-cache"
    FILE_MISSING = "file-missing"
    FILE_FORBIDDEN = "file-forbidden"
    FILE_LOCKED = "file-locked"
    NO_SPACE = "no-space"
    BRIDGE_MISSING = "bridge-missing"
    BRIDGE_FORBIDDEN = "bridge-forbidden"
    NETWORK_MISSING = "network-missing"
    CPU = "cpu"
    ACCELERATOR = "accelerator"
    MEMORY = "memory"
    HUGE_PAGES = "huge-pages"
    MEMORY_LOCK = "memory-lock"
    MACHINE = "machine"
    EMULATOR = "emulator"
    DEVICE_UNKNOWN = "device-unknown"
    DEFINITION_DIFFERS = "definition-differs"
    SECURITY = "security"
    HOOK = "hook"
    STREAM_DEVICE = "stream-device"
    STREAM_MEMORY = "stream-memory"
    STREAM_BROKEN = "stream-broken"
    POSTCOPY_LOST = "postcopy-lost"
    POSTCOPY_REFUSED = "postcopy-refused"
    DESTINATION_DIED = "destination-died"
    DESTINATION_START = "destination-start"
    ABORTED = "aborted"
    TIMED_OUT = "timed-out"
    UNSUPPORTED = "unsupported"
    NOT_ALLOWED_NOW = "not-allowed-now"
    RESOURCE = "resource"
    FINISHED_TWICE = "finished-twice"
    NOT_PERSISTED = "not-persisted"
    DEFINITION = "definition"
    HYPERVISOR = "hypervisor"
    UNEXPECTED = "unexpected"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """What a person reads.

    Attributes:
        what: one sentence of the cause.
        fix: what to do, as imperative sentences.
        bare: the sentence where nothing is named that `what` has a place for; empty: `what` has none.
    """

    what: str
    fix: str
    bare: str = ""


_LISTEN: Final = "'systemctl enable --now virtproxyd-tls.socket' (libvirtd-tls.socket, or -tcp.socket) lets it listen"
_VERIFY: Final = "'segue hosts verify{pair}' tries every way between both."
_PKI: Final = "'segue pki verify{pair}' shows what is wrong with which certificate, 'segue pki issue' and 'install' mend it."
_OPEN: Final = (
    "Let the migration ports through on {there} (libvirt takes 49152 to 49215: qemu.conf, migration_port_min and _max); "
    "'segue hosts verify{pair}' shows the rule that stops them and the command that opens them."
)

WORDS: Final[dict[Cause, Words]] = {
    # --- the daemons, and the way to them
    Cause.DAEMON_REFUSED: Words(
        what="Nobody listens at {it}: the connection was refused.",
        bare="Nobody listens where libvirt's daemon of {host} should: the connection was refused.",
        fix=f"Start the daemon there: {_LISTEN}. {_VERIFY}",
    ),
    Cause.DAEMON_SILENT: Words(
        what="No answer from {it}: the host is off, or a firewall lets packets vanish.",
        bare="No answer from libvirt's daemon of {host}: the host is off, or a firewall lets packets vanish.",
        fix=f"Look whether the host is up, and let the daemon's port through (TLS 16514, TCP 16509, ssh 22). {_VERIFY}",
    ),
    Cause.DAEMON_GONE: Words(
        what="The connection to libvirt's daemon of {host} ended in the middle of it: it was stopped, restarted or killed.",
        fix="See why: 'journalctl -u libvirtd -u virtqemud' on {host}.",
    ),
    Cause.NO_ROUTE: Words(
        what="There is no way to {it}: the network says that it cannot be reached.",
        bare="There is no way to {host}: the network says that it cannot be reached.",
        fix=f"Look at addresses and routes of both hosts ('ip route get'), or at a firewall that rejects. {_VERIFY}",
    ),
    Cause.NAME_UNKNOWN: Words(
        what="The name {it} means no address where it was looked up.",
        bare="A name means no address where it was looked up.",
        fix="Add it to DNS or to /etc/hosts on both hosts, or set migration_address in segue.toml to an IP address. "
        "With --control p2p the source's daemon looks it up, not this machine.",
    ),
    Cause.NAME_LOOPBACK: Words(
        what="{there} takes its own name for its loopback address, and would have the guest sent there.",
        fix="Remove the line 127.0.1.1 (or 127.0.0.1) with its name from /etc/hosts on {there}, "
        "or set migration_address in segue.toml.",
    ),
    Cause.SAME_HOST: Words(
        what="For libvirt {here} and {there} are one host: both have the same host UUID.",
        fix="If they are two (cloned machines, or firmware without a UUID): give {there} its own host_uuid in "
        "/etc/libvirt/libvirtd.conf (virtqemud.conf; 'uuidgen' makes one) and restart its daemon.",
    ),
    Cause.AUTH_REFUSED: Words(
        what="libvirt's daemon of {host} does not let this user in.",
        fix="Look at auth_tcp, auth_tls and sasl_allowed_username_list in /etc/libvirt/libvirtd.conf (virtproxyd.conf) there, "
        "at its polkit rules for a user who is not root, or come by ssh as root: qemu+ssh://root@{host}/system.",
    ),
    Cause.SSH_REFUSED: Words(
        what="ssh to {host} does not let this user in.",
        fix="'ssh {host} true' must work without a password, for root of {here} too where --control p2p is used "
        "(its daemon logs in with its own keys).",
    ),
    Cause.SSH_HOST_KEY: Words(
        what="ssh does not know the host key of {host}, or knows another one.",
        fix="Compare it with the host's own (ssh-keyscan), then add it to known_hosts of whoever connects: "
        "with --control p2p that is root on {here}.",
    ),
    Cause.READ_ONLY: Words(
        what="This connection to {host} may look and not act.",
        fix="Connect as root, or as a member of the group libvirt (unix_sock_group in libvirtd.conf), without read-only.",
    ),
    Cause.NOT_LIBVIRT: Words(
        what="What answers on that port of {host} does not speak libvirt's protocol.",
        fix="Look at the port in the URI, and whether one side speaks TLS and the other does not (16514 is TLS, 16509 is not). "
        "Over ssh: nothing may be printed by the login shell.",
    ),
    # --- TLS
    Cause.TLS_NAME: Words(
        what="The certificate that {host} shows is not for the name by which it was called: {it}.",
        bare="The certificate that {host} shows is not for the name by which it was called.",
        fix="Issue one with that name: 'segue pki issue {host} --san NAME' and 'segue pki install {host}'; "
        "or call the host by a name that its certificate has.",
    ),
    Cause.TLS_DATES: Words(
        what="A certificate has expired, or does not hold yet.", fix=f"{_PKI} Are both clocks right ('date')?"
    ),
    Cause.TLS_REVOKED: Words(what="A certificate has been revoked.", fix=_PKI),
    Cause.TLS_UNTRUSTED: Words(what="One side does not believe the CA that signed the other side's certificate.", fix=_PKI),
    Cause.TLS_FILES: Words(
        what="TLS was asked for, and {host} cannot read {it}.",
        bare="TLS was asked for, and {host} has not the files for it.",
        fix="'segue pki install {host}' puts them there; 'segue pki verify' tells what is missing or closed to whom.",
    ),
    Cause.TLS_FAILED: Words(what="The TLS handshake between {here} and {there} failed.", fix=_PKI),
    # --- the guest's data
    Cause.PORT_REFUSED: Words(
        what="The migration port at {it} refused the connection.",
        bare="The migration port of {there} refused the connection.",
        fix=_OPEN,
    ),
    Cause.PORT_SILENT: Words(
        what="The migration port at {it} does not answer: a firewall lets packets vanish.",
        bare="The migration port of {there} does not answer: a firewall lets packets vanish.",
        fix=_OPEN,
    ),
    Cause.PORT_TAKEN: Words(
        what="{there} has no free port for the guest's memory.",
        fix="Look who has them ('ss -ltnp' there), or give a wider range: migration_ports in segue.toml, or --migration-ports.",
    ),
    Cause.DISPLAY_PORT: Words(
        what="The display of {guest} cannot be opened on {there}: somebody has its port already ({it}).",
        bare="The display of {guest} cannot be opened on {there}: somebody has its port already.",
        fix="Look who has it ('ss -ltnp' there) and end it, or let the display have another: --set graphics.vnc=ADDRESS:PORT, "
        "of a bare QEMU --set vnc=ADDRESS:DISPLAY; autoport='yes' from its next start on.",
    ),
    Cause.DISPLAY_ADDRESS: Words(
        what="The display of {guest} listens on an address that {there} does not have ({it}).",
        bare="The display of {guest} listens on an address that {there} does not have.",
        fix="Give it another there: --set graphics.vnc=ADDRESS, of a bare QEMU --set vnc=ADDRESS:DISPLAY; "
        "0.0.0.0 and the names of both hosts' own networks fit everywhere.",
    ),
    Cause.LINK_LOST: Words(
        what="The connection that carries the guest's memory broke.",
        fix="Look at the link and at both kernels' logs; was a QEMU killed (out of memory: 'dmesg')? Then move it again.",
    ),
    # --- the guest
    Cause.GUEST_GONE: Words(
        what="{host} has no guest {guest} any more.",
        fix="'segue guests' shows where it is; somebody stopped or moved it meanwhile.",
    ),
    Cause.GUEST_EXISTS: Words(
        what="{there} already has another guest called {guest}.",
        fix="If it is an old definition of the same guest: 'virsh undefine {guest}' there. "
        "If it is another guest, one of the two needs another name.",
    ),
    Cause.GUEST_OFF: Words(what="{guest} does not run any more.", fix="Start it, or define it on {there} with its disks."),
    Cause.GUEST_BUSY: Words(
        what="Something else is under way with {guest} (a snapshot, a backup, a block job, another migration).",
        fix="'virsh domjobinfo {guest}' and 'virsh blockjob {guest} DISK' on {here} show it; wait for its end, or end it.",
    ),
    Cause.DEVICE_BLOCKS: Words(
        what="{guest} has something that cannot be moved: {it}.",
        bare="{guest} has a device or a state that cannot be moved.",
        fix="Detach it for the move (eject the CD-ROM, detach the USB or PCI device, unmount the shared directory).",
    ),
    # --- its disks
    Cause.UNSAFE_STORAGE: Words(
        what="A disk of {guest} is not on storage that both hosts share, as far as libvirt can see.",
        fix="Put it on shared storage, mounted at the same path on both hosts, or let it be copied: --copy-storage all.",
    ),
    Cause.UNSAFE_CACHE: Words(
        what="A disk of {guest} is cached on {here} in a way that may leave written data behind.",
        fix="Set cache='none' (or 'directsync') for it in the guest's definition and restart the guest, or "
        "move it to storage that "
        "libvirt knows as coherent (NFS is not).",
    ),
    Cause.FILE_MISSING: Words(
        what="{host} has no {it}.",
        bare="A file that {guest} needs is missing on {host}.",
        fix="Both hosts must see the same file at that path: mount the same storage there, or copy disks with --copy-storage; "
        "eject a CD-ROM; or give another path with --set or --xml.",
    ),
    Cause.FILE_FORBIDDEN: Words(
        what="QEMU on {host} may not use {it}.",
        bare="QEMU on {host} may not use a file of {guest}.",
        fix="Look at owner and mode there, as the user that QEMU runs as (qemu.conf: user, group, dynamic_ownership); "
        "on NFS at root_squash and at UIDs that differ between the hosts; at AppArmor or SELinux ('dmesg', 'ausearch').",
    ),
    Cause.FILE_LOCKED: Words(
        what="Somebody else has a disk of {guest} open: {it} is locked.",
        bare="Somebody else has a disk of {guest} open: it is locked.",
        fix="Find who: 'fuser -v FILE' or 'lslocks' on every host that sees it. Another copy of the guest "
        "must never run beside it.",
    ),
    Cause.NO_SPACE: Words(
        what="There is no space left on {host}.", fix="Make room where the guest's disks, NVRAM or saved state lie ('df -h')."
    ),
    # --- what the destination has to have
    Cause.BRIDGE_MISSING: Words(
        what="{host} has no network device {it}.",
        bare="A bridge that {guest} is plugged into is missing on {host}.",
        fix="Make the bridge there with the same name, MTU and VLANs, or give another one with --set nic.ID=… or --xml.",
    ),
    Cause.BRIDGE_FORBIDDEN: Words(
        what="QEMU's bridge helper on {host} may not plug a guest into {it}.",
        bare="QEMU's bridge helper on {host} may not plug {guest} into its bridge.",
        fix="Add 'allow BRIDGE' to /etc/qemu/bridge.conf there, and see that the bridge is there, too.",
    ),
    Cause.NETWORK_MISSING: Words(
        what="{host} has no active libvirt network {it}.",
        bare="A libvirt network that {guest} is plugged into is missing on {host}, or not started.",
        fix="'virsh net-list --all' there; 'virsh net-define', 'net-start' and 'net-autostart' make it.",
    ),
    Cause.CPU: Words(
        what="The CPU of {there} has not what the guest's CPU has: {it}.",
        bare="The CPU of {there} has not all that the guest's CPU has.",
        fix="Give the guest a CPU model that both hosts have: 'virsh domcapabilities' on each, 'virsh "
        "hypervisor-cpu-baseline' for "
        "the pair; it takes a restart of the guest. Same microcode and the same nested setting on both hosts help.",
    ),
    Cause.ACCELERATOR: Words(
        what="{there} cannot run the guest with the accelerator that it has here: {it}.",
        bare="{there} cannot run the guest with KVM.",
        fix="Is /dev/kvm there, virtualization on in the firmware, the module kvm_intel or kvm_amd loaded, and may QEMU open it?",
    ),
    Cause.MEMORY: Words(
        what="{there} has not enough free memory for {guest}.",
        fix="'free -m' there; move something away first, or make the guest smaller.",
    ),
    Cause.HUGE_PAGES: Words(
        what="{there} has not the huge pages that {guest} is made of.",
        fix="'grep Huge /proc/meminfo' there; reserve them (vm.nr_hugepages, of the same size) and mount hugetlbfs.",
    ),
    Cause.MEMORY_LOCK: Words(
        what="libvirt on {host} may not lift the limit on what QEMU locks of the memory of {guest}.",
        fix="Leave out --zero-copy: what is sent without a copy is locked. That daemon lacks the capability CAP_SYS_RESOURCE, "
        "because it is not root, or in a container.",
    ),
    Cause.MACHINE: Words(
        what="QEMU on {there} does not know the guest's machine type {it}.",
        bare="QEMU on {there} does not know the guest's machine type.",
        fix="It is older than QEMU on {here}, or another vendor's: upgrade it, or start the guest with a "
        "machine type that both know "
        "('qemu-system-x86_64 -machine help').",
    ),
    Cause.EMULATOR: Words(
        what="{there} has no emulator {it}.",
        bare="{there} has not the guest's emulator.",
        fix="Install QEMU for that architecture there, at the same path, or give another <emulator> with --xml.",
    ),
    Cause.DEVICE_UNKNOWN: Words(
        what="QEMU on {there} does not know {it}.",
        bare="QEMU on {there} does not know a device or an option of {guest}.",
        fix="It is older, or built with less (packages such as qemu-system-modules-*, qemu-block-extra): install the same there.",
    ),
    Cause.DEFINITION_DIFFERS: Words(
        what="The definition for {there} is not the same machine as the one that runs: {it}.",
        bare="The definition for {there} is not the same machine as the one that runs.",
        fix="What the guest sees must stay the same; only hosts' matters (paths, bridges, where a display listens) may differ.",
    ),
    Cause.SECURITY: Words(
        what="The security driver of {host} (AppArmor, SELinux, DAC) does not let the guest's files be labelled.",
        fix="Look at its log ('dmesg', 'ausearch -m avc'), at root_squash of NFS, and whether both hosts have "
        "the same security driver.",
    ),
    Cause.HOOK: Words(
        what="A hook script of {host} refused the guest.", fix="Look at /etc/libvirt/hooks/qemu there, and run it by hand."
    ),
    # --- the stream
    Cause.STREAM_DEVICE: Words(
        what="QEMU on {there} cannot take the state of {it}: both QEMUs do not build the same guest.",
        bare="QEMU on {there} cannot take the state of a device: both QEMUs do not build the same guest.",
        fix="Compare versions and the guest's command lines on both hosts; a versioned machine type "
        "(pc-q35-7.2, not q35) is needed, "
        "and going to an older QEMU seldom works. Cold-move it, or upgrade {there}.",
    ),
    Cause.STREAM_MEMORY: Words(
        what="QEMU on {there} has another memory layout: {it}.",
        bare="QEMU on {there} has another memory layout than the guest.",
        fix="Memory size, video memory and option ROMs (package ipxe-qemu, seabios, ovmf) must be the same on both hosts.",
    ),
    Cause.STREAM_BROKEN: Words(
        what="What QEMU on {there} received was no whole guest.",
        fix="Mostly a connection that broke, or something else that connected to the port; with TLS on one "
        "side only it looks the "
        f"same. {_VERIFY}",
    ),
    Cause.POSTCOPY_LOST: Words(
        what="Post-copy lost its connection, and cannot be connected again: {host} has nothing of {guest} any more.",
        fix="See why on {host}: was its QEMU killed ('dmesg'), or libvirt's daemon started again in the instant in which "
        "post-copy began? 'segue recover --discard' ends what {peer} still holds; then the guest can be started from its disk.",
    ),
    Cause.POSTCOPY_REFUSED: Words(
        what="{host} cannot do post-copy.",
        fix="Its kernel must let QEMU use userfaultfd: 'sysctl vm.unprivileged_userfaultfd=1' there; without "
        "it, move without --postcopy.",
    ),
    Cause.DESTINATION_DIED: Words(
        what="QEMU on {there} died while it received {guest}.",
        fix="Its last words are below; was it killed for memory ('dmesg' there)?",
    ),
    Cause.DESTINATION_START: Words(
        what="QEMU on {there} does not start.",
        fix="Its own words are below: {there} must have all that the guest's definition names, at the same paths.",
    ),
    # --- how it ended
    Cause.ABORTED: Words(what="Somebody aborted the migration from outside Segue.", fix="Ask who, then move it again."),
    Cause.TIMED_OUT: Words(
        what="libvirt on {host} waited too long for something.",
        fix="Is QEMU or the storage hanging there? 'virsh domjobinfo {guest}' and 'ps' show what waits.",
    ),
    Cause.UNSUPPORTED: Words(
        what="libvirt or QEMU of one of the hosts cannot do what was asked: {it}.",
        bare="libvirt or QEMU of one of the hosts cannot do what was asked.",
        fix="Ask for less, or upgrade the older host: 'segue hosts' shows the versions.",
    ),
    Cause.NOT_ALLOWED_NOW: Words(
        what="libvirt on {host} does not allow that for {guest} as it is now.",
        fix="Its own words are below.",
    ),
    Cause.RESOURCE: Words(
        what="A resource that {guest} needs is in use on {host}.",
        fix="Its own words are below; end who uses it, or move elsewhere.",
    ),
    Cause.FINISHED_TWICE: Words(
        what="The guest arrived, and something after that failed.",
        fix="The guest runs; 'segue recover' settles what is left.",
    ),
    Cause.NOT_PERSISTED: Words(
        what="The guest arrived and runs, and {there} could not keep its definition.",
        fix="'virsh dumpxml {guest}' and 'virsh define' on {there} keep it; look at space and rights of /etc/libvirt/qemu.",
    ),
    Cause.DEFINITION: Words(
        what="The guest's definition is not understood on {host}.",
        fix="'virt-xml-validate' tells where; what --xml gave must be a whole definition, and {host} may be older.",
    ),
    Cause.HYPERVISOR: Words(what="{message}", fix="Its own words are below, with what both hosts wrote."),
    Cause.UNEXPECTED: Words(
        what="libvirt on {host} gave an answer that no migration is known to get: {raw}.",
        fix="It is shown as it came, with the log of both hosts; look there.",
    ),
    Cause.UNKNOWN: Words(
        what="{host} said something that Segue does not know: {raw}.",
        fix="It is shown as it came, with the log of both hosts; look there.",
    ),
}
