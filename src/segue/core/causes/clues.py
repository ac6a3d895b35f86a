"""Words by which one of several possible causes is known: for a better sentence, never for what is done.

They are searched from the top: what names a file or a device stands before what only says that something broke. What was not seen
in a lab with libvirt 9.0 and QEMU 7.2 is from their sources. What may live here: the list.
"""

from __future__ import annotations

from typing import Final

from segue.core.causes.words import Cause

_C = Cause
# A migration port is any but the daemons' own: libvirt says "unable to connect to server at" of both (rpc/virnetsocket.c).
_DATA_PORT: Final = r"(?P<it>\S+:(?!(?:16509|16514|22)\b)\d+)"
# QEMU names the option that it could not do, and libvirt repeats that (ui/vnc.c, ui/spice-core.c).
_DISPLAY: Final = r"-(?:vnc|spice) (?P<it>[^, ]+?)(?:,\S*)?: "

CLUES: Final[tuple[tuple[Cause, str], ...]] = (
    # --- TLS: libvirt's words (rpc/virnettlscontext.c, virnettlscert.c), then QEMU's (crypto/tlssession.c, tlscredsx509.c)
    (_C.TLS_NAME, r"(?:owner )?does not match the hostname (?P<it>\S+)"),
    (_C.TLS_DATES, r"[Cc]ertificate\b.*\b(?:has expired|not yet active|is not yet)"),
    (_C.TLS_REVOKED, r"certificate\b.*\b(?:has been|was) revoked"),
    (_C.TLS_UNTRUSTED, r"hasn't got a known issuer|certificate is not trusted|certificate issuer is unknown|signer not found"),
    (_C.TLS_UNTRUSTED, r"Certificate failed validation|[Ff]ailed to verify peer's certificate|uses an insecure algorithm"),
    (_C.TLS_UNTRUSTED, r"Client's Distinguished Name is not on the list|server verification .* failed"),
    (_C.TLS_FILES, r"Cannot read (?:CA |server |client )?(?:certificate|private key|key) '(?P<it>[^']+)'"),
    (_C.TLS_FILES, r"Unable to access credentials (?P<it>\S+):"),
    (_C.TLS_FILES, r"migrate_tls_x509_cert_dir directory '(?P<it>[^']+)'|Unable to import .*(?:certificate|key) (?P<it2>\S+)"),
    (_C.TLS_FAILED, r"TLS handshake failed|[Uu]nable to verify TLS peer|gnutls_handshake|A TLS (?:packet|fatal alert)"),
    # --- who may come in
    (_C.SSH_HOST_KEY, r"Host key verification failed|REMOTE HOST IDENTIFICATION HAS CHANGED|host key .* (?:not known|unknown)"),
    (_C.SSH_REFUSED, r"Permission denied \((?:publickey|password|gssapi|keyboard)|Access denied|ssh.*[Aa]uthentication fail"),
    (_C.AUTH_REFUSED, r"authentication (?:failed|unavailable|required)|no polkit agent|[Nn]o (?:usable )?SASL mechanism|SASL"),
    (_C.NOT_LIBVIRT, r"packet \d+ bytes received from server too (?:large|small)|Hook script|unknown program"),
    # --- names and addresses
    (_C.NAME_LOOPBACK, r"hostname on destination resolved to localhost"),
    (_C.SAME_HOST, r"Attempt to migrate guest to the same host"),
    (
        _C.NAME_UNKNOWN,
        r"(?:Unable to resolve address '(?P<it>[^']+)'|unable to resolve '?(?P<it2>[^':]+)|address resolution failed for (?P<it3>\S+):)",
    ),
    (_C.NAME_UNKNOWN, r"Name or service not known|Temporary failure in name resolution|No address associated with hostname"),
    # --- ports
    (_C.DISPLAY_PORT, rf"{_DISPLAY}.*[Aa]ddress already in use|[Ff]ailed to reserve port (?P<it2>\d+)"),
    (_C.DISPLAY_ADDRESS, rf"{_DISPLAY}.*Cannot assign requested address"),
    (_C.PORT_TAKEN, r"[Uu]nable to find an unused port in range"),
    (_C.PORT_TAKEN, r"[Ff]ailed to (?:bind|find an available port|listen).*[Aa]ddress already in use"),
    (_C.PORT_REFUSED, rf"connect to (?:server at )?'{_DATA_PORT}':? ?.*Connection refused"),
    (_C.PORT_SILENT, rf"connect to (?:server at )?'{_DATA_PORT}':? ?.*(?:timed out|[Tt]imeout)"),
    (_C.NO_ROUTE, r"connect to (?:server at )?'(?P<it>[^']+)':? ?.*(?:No route to host|is unreachable|administratively)"),
    (_C.DAEMON_REFUSED, r"connect to (?:server at|socket to) '(?P<it>[^']+)'.*(?:Connection refused|No such file)"),
    (_C.DAEMON_REFUSED, r"Failed to connect socket to '(?P<it>[^']+)'|ssh: connect to host (?P<it2>\S+) .*refused"),
    (_C.DAEMON_SILENT, r"(?:connect to server at|ssh: connect to host) '?(?P<it>[^' ]+)'?.*(?:timed out|[Tt]imeout)"),
    (_C.DAEMON_SILENT, r"connection timed out: no answer within"),
    (_C.PORT_REFUSED, r"Failed to connect to '(?P<it>[^']+)': Connection refused"),
    (_C.NO_ROUTE, r"No route to host|[Nn]etwork is unreachable"),
    (_C.READ_ONLY, r"read[- ]only (?:access|connection)|operation forbidden"),
    # --- the guest
    (_C.GUEST_EXISTS, r"domain '[^']*' (?:already exists with uuid|is already (?:active|defined|being started))"),
    (_C.GUEST_BUSY, r"cannot acquire state change lock|(?:active|another) (?:block|migration|domain)? ?(?:copy )?job|block job"),
    (_C.GUEST_OFF, r"domain is not running|[Dd]omain .* is not running|not being migrated"),
    (_C.DEVICE_BLOCKS, r"State blocked by non-migratable device '(?P<it>[^']+)'|[Mm]igration disabled: (?P<it2>.+)"),
    (
        _C.DEVICE_BLOCKS,
        r"[Mm]igration is (?:blocked|not possible)\S*:? (?P<it>.+)|[Cc]annot migrate (?:a )?domain with (?P<it2>.+)",
    ),
    (
        _C.DEVICE_BLOCKS,
        r"cannot (?:be migrated|migrate)\b.*\b(?P<it>hostdev|USB|PCI|vhost-user|shmem|9p|virtiofs|tpm|TPM|vGPU|mdev)\b",
    ),
    (_C.DEVICE_BLOCKS, r"domain has (?P<it>assigned (?:non-USB )?host devices|(?:an )?active \S+|CPU feature: \S+)"),
    (_C.UNSAFE_CACHE, r"if disks use cache"),
    (_C.UNSAFE_STORAGE, r"without shared storage is unsafe"),
    # --- files
    (
        _C.EMULATOR,
        r"Cannot check QEMU binary (?P<it>\S+?):? |Cannot find (?:suitable )?emulator|No emulator found for arch '(?P<it2>\S+)'",
    ),
    (
        _C.HUGE_PAGES,
        r"hugetlbfs filesystem is not mounted|hugepages? (?:are|is) (?:disabled|not supported)|[Hh]uge ?pages?.*unable",
    ),
    (_C.HUGE_PAGES, r"os_mem_prealloc: Insufficient free host memory pages|unable to map backing store for guest RAM"),
    (_C.MEMORY_LOCK, r"cannot limit locked memory of process \d+"),
    (
        _C.FILE_LOCKED,
        r"Failed to (?:get|lock) (?:shared |exclusive )?\"?(?P<it>\S+?)\"? ?(?:lock|byte)|another process using the image",
    ),
    (_C.FILE_MISSING, r"Cannot access (?:storage file|backing file) '(?P<it>[^']+)'.*: No such file or directory"),
    (_C.FILE_FORBIDDEN, r"Cannot access (?:storage file|backing file) '(?P<it>[^']+)'.*: Permission denied"),
    (
        _C.FILE_MISSING,
        r"[Cc](?:ould|an) ?not (?:open|access|stat) (?:backing file |file )?'?(?P<it>/[^':]+)'?:?.*No such file or directory",
    ),
    (
        _C.FILE_FORBIDDEN,
        r"[Cc](?:ould|an) ?not (?:open|access|stat) (?:backing file |file )?'?(?P<it>/(?!dev/kvm)[^':]+)'?:?.*Permission denied",
    ),
    (_C.FILE_MISSING, r"[Ff]ailed to open (?:file )?'?(?P<it>/[^':]+)'?:? ?.*No such file or directory"),
    (
        _C.FILE_FORBIDDEN,
        r"[Ff]ailed to open (?:file )?'?(?P<it>/[^':]+)'?:? ?.*Permission denied|cannot open (?:the )?file '(?P<it2>[^']+)'.*denied",
    ),
    (_C.NO_SPACE, r"No space left on device|[Dd]isk quota exceeded"),
    (
        _C.SECURITY,
        r"unable to set (?:security context|user and group)|[Ss]ecurity (?:label|driver)\b.*\b(?:not|fail|unable)|apparmor|SELinux",
    ),
    # --- what the destination has to have
    (_C.BRIDGE_FORBIDDEN, r"(?s)access denied by acl file(?:.*\bbr=(?P<it>[^,:\s]+))?"),
    (
        _C.BRIDGE_MISSING,
        r"Cannot get interface (?:MTU|flags|index) on '(?P<it>[^']+)'|Unable to add (?:bridge|port) (?P<it2>\S+)",
    ),
    (
        _C.BRIDGE_MISSING,
        r"failed to (?:get|find) (?:mtu|index) of bridge[ `'\"]*(?P<it>[^ '`\"]+)|bridge helper failed|interface '(?P<it2>[^']+)' not",
    ),
    (
        _C.NETWORK_MISSING,
        r"no network with matching name '(?P<it>[^']+)'|[Nn]etwork '(?P<it2>[^']+)' is not active|network (?P<it3>\S+) .*not active",
    ),
    (_C.CPU, r"(?:required|missing) features?: (?P<it>[\w., -]+)|[Hh]ost doesn't support requested features?:? ?(?P<it2>.*)"),
    (
        _C.CPU,
        r"CPU (?:is incompatible|not compatible|doesn't match)|guest and host CPU are not compatible|(?:unknown|Unable to find) CPU (?:model|definition)",
    ),
    (_C.CPU, r"unable to find CPU model '(?P<it>[^']+)'|CPU feature (?P<it2>\S+) not found|unknown CPU feature:? (?P<it3>\S+)"),
    (
        _C.ACCELERATOR,
        r"Could not access KVM kernel module|does not support virt(?:ualization)? type '?(?P<it>\w+)|failed to initialize (?P<it2>kvm)",
    ),
    (
        _C.ACCELERATOR,
        r"could not get preferred machine for \S+ type=(?P<it>\w+)|(?P<it2>kvm) is not supported|invalid accelerator (?P<it3>\S+)",
    ),
    (_C.MEMORY, r"[Cc]annot set up guest memory|[Cc]annot allocate memory|[Ff]ailed to allocate memory|[Oo]ut of memory"),
    (_C.MACHINE, r"unsupported machine type(?: '?(?P<it>[\w.-]+)'?)?|does not support machine type '(?P<it2>[^']+)'"),
    (_C.DEFINITION_DIFFERS, r"(?P<it>Target .* does not match source .*)"),
    (_C.DEVICE_UNKNOWN, r"'(?P<it>[^']+)' is not a valid device model name|[Pp]roperty '(?P<it2>[^']+)' not found"),
    (
        _C.DEVICE_UNKNOWN,
        r"(?P<it>-[a-z-]+): (?:invalid option|Invalid parameter)|(?:Unknown|Invalid) (?:option|driver) '(?P<it2>[^']+)'|Unknown protocol '(?P<it3>\w+)'",
    ),
    # --- the stream (migration/savevm.c, vmstate.c, ram.c)
    (_C.STREAM_MEMORY, r"(?P<it>(?:Length|Size) mismatch: .+|Unknown ramblock .+|Mismatched .*RAM.*)"),
    (_C.STREAM_DEVICE, r"error while loading state for instance \S+ of device '(?P<it>[^']+)'"),
    (_C.STREAM_DEVICE, r"Unknown savevm section or instance '(?P<it>[^']+)'|[Ff]ailed to load (?P<it2>\S+:\S+)"),
    (_C.STREAM_DEVICE, r"Machine type received is '(?P<it>[^']+)'|configuration .* not (?:equal|compatible)"),
    (_C.POSTCOPY_REFUSED, r"[Pp]ostcopy is not supported|userfaultfd|[Uu]serfault not available|postcopy_ram_supported_by_host"),
    (_C.DEVICE_UNKNOWN, r"State section for '?(?P<it>\S+?)'? .*not found"),
    (
        _C.STREAM_BROKEN,
        r"[Nn]ot a migration stream|Unsupported (?:migration stream|version)|Unknown section type|Unexpected .*magic",
    ),
    (_C.STREAM_BROKEN, r"(?:multifd|migration): .*(?:magic|uuid|version) mismatch"),
    # --- what only says that something broke
    (_C.DEFINITION, r"XML error|unknown OS type|document failed to validate"),
    (_C.ABORTED, r"cancell?ed by (?:client|user)|operation aborted"),
    (_C.DESTINATION_START, r"process exited (?:while connecting to monitor|prior to exec)|exited unexpectedly|does not start on"),
    (_C.DESTINATION_DIED, r"unexpectedly closed the monitor|[Ll]ost connection to destination host|guest unexpectedly quit"),
    (_C.DAEMON_GONE, r"End of file while reading data|client socket is closed|keepalive timeout|Cannot (?:recv|write) data"),
    (_C.LINK_LOST, r"(?:Unable to (?:write to|read from) socket|Channel error|Broken pipe|Connection reset|Input/output error)"),
    (_C.LINK_LOST, r"Read section footer failed|load of migration failed|connection (?:was )?(?:closed|lost)"),
    (
        _C.UNSUPPORTED,
        r"(?:is|are|was) not supported|(?P<it>[^:]+ (?:not|only) available .+)|unsupported (?P<it2>.+)|does not support (?P<it3>.+)",
    ),
)
"""Cause and pattern, the most telling first; a group whose name begins with ``it`` is what was named. To compile all of them takes
longer than most other things at the start, and most migrations need none."""
