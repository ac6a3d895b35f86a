"""What a host lacks follows from what is seen there; a host that lacks nothing is left alone."""

from __future__ import annotations

from dataclasses import replace

import pytest

from segue.core import confedit, hostchecks
from segue.core.firewalls import Firewall, FirewallKind
from segue.core.hostfacts import (
    EXPORTS,
    HOSTS,
    LIBVIRTD_CONF,
    NFS_CLIENT,
    PACKAGES,
    QEMU_CONF,
    VIRTPROXYD_CONF,
    Init,
    Seen,
    Share,
    Unit,
    Wanted,
)
from segue.core.pki import FILES
from segue.core.preparing import names_to_write, plan
from segue.core.steps import Certificates, Command, File, Install, Step, intent, read_lines, shown
from segue.errors import HostSetupError, RefusedError

ON, OFF = Unit(enabled=True, active=True), Unit(enabled=False, active=False)
UUID = "0123456789abcdef0123456789abcdef"
UNTOUCHED = Seen(host="alpha", container=True, uuid=UUID, files={HOSTS: "127.0.0.1 localhost\n"})
INSTALLED = replace(
    UNTOUCHED,
    packages=frozenset(PACKAGES),
    certificates=frozenset(FILES),
    units={"libvirtd.socket": ON, "libvirtd.service": ON, "libvirtd-tls.socket": OFF, "libvirtd-tcp.socket": OFF},
    files={HOSTS: "127.0.0.1 localhost\n", LIBVIRTD_CONF: "# mine\n", QEMU_CONF: '#user = "root"\n'},
)
WITHOUT_SYSTEMD = replace(INSTALLED, init=Init.NONE, units={}, daemon_argv=("/usr/sbin/libvirtd", "--daemon"))


def done(seen: Seen, steps: tuple[Step, ...]) -> Seen:
    """The host after these steps."""
    for step in steps:
        match step:
            case Install(packages=names):
                seen = replace(seen, packages=seen.packages | set(names), time_service=seen.time_service or "systemd-timesyncd")
            case File(path=path, after=after):
                seen = replace(seen, files={**seen.files, path: after})
            case Certificates():
                seen = replace(seen, certificates=frozenset(FILES))
            case Command(argv=("systemctl", "enable", "--now", unit)):
                mounts = {**seen.mounts, "/srv/guests": "nas:/srv/guests"} if unit.endswith(".mount") else seen.mounts
                seen = replace(seen, units={**seen.units, unit: ON}, mounts=mounts)
            case Command(argv=("sh", "-c", _, "sh", *argv)) if "nft" not in step.title:
                seen = replace(seen, daemon_argv=tuple(argv))
    return seen


def settings(steps: tuple[Step, ...], path: str) -> dict[str, confedit.Value]:
    [text] = [step.after for step in steps if isinstance(step, File) and step.path == path]
    return confedit.read(path, text)


def commands(steps: tuple[Step, ...]) -> list[str]:
    return [" ".join(step.argv) for step in steps if isinstance(step, Command) and step.argv]


WANTED = [
    Wanted(),
    Wanted(tcp=True),
    Wanted(tcp=True, insecure=True),
    Wanted(address="10.0.7.11", ports=(50000, 50010), names={"beta": "10.0.7.12"}),
    Wanted(shares=(Share(server="nas", path="/srv/guests"),)),
    Wanted(exports=("/srv/guests",), peers=("10.0.7.12",)),
]


@pytest.mark.parametrize("wanted", WANTED)
@pytest.mark.parametrize("seen", [UNTOUCHED, INSTALLED, replace(UNTOUCHED, container=False)])
def test_what_was_done_is_not_done_again(seen, wanted):
    steps = plan(seen, wanted)
    assert steps
    assert plan(done(seen, steps), wanted) == ()


@pytest.mark.parametrize("wanted", WANTED)
def test_every_step_is_shown_and_comes_back_from_the_journal(wanted):
    for number, step in enumerate(plan(UNTOUCHED, wanted)):
        [taken] = read_lines(intent(number, step)).taken
        assert type(taken.step) is type(step)
        if isinstance(step, Command):
            assert taken.step == step
        else:
            assert shown(step)


def test_under_systemd_a_socket_unit_decides_and_is_switched_on_while_its_service_is_stopped():
    steps = plan(INSTALLED, Wanted())
    assert commands(steps) == [
        "systemctl stop libvirtd.service",
        "systemctl enable --now libvirtd-tls.socket",
        "systemctl start libvirtd.service",
    ]
    assert not any(isinstance(step, File) and "listen" in step.after for step in steps)


def test_taken_back_the_daemon_is_stopped_first_and_started_last():
    undo = [" ".join(step.undo) for step in reversed(plan(INSTALLED, Wanted())) if isinstance(step, Command) and step.undo]
    assert undo == [
        "systemctl stop libvirtd.service",
        "systemctl disable --now libvirtd-tls.socket",
        "systemctl start libvirtd.service",
    ]


def test_where_modular_daemons_are_set_up_theirs_are_the_sockets_and_the_file():
    modular = replace(INSTALLED, units={"virtproxyd.socket": ON, "libvirtd.socket": OFF}, files={VIRTPROXYD_CONF: ""})
    steps = plan(replace(modular, uuid=""), Wanted())
    assert "systemctl enable --now virtproxyd-tls.socket" in commands(steps)
    assert "systemctl stop virtproxyd.service virtqemud.service" in commands(steps)
    assert settings(steps, VIRTPROXYD_CONF) == {"host_uuid_source": "machine-id"}


def test_a_daemon_that_holds_its_own_sockets_is_told_to_listen_by_its_unit():
    own = replace(INSTALLED, units={"libvirtd.socket": OFF, "libvirtd.service": ON})
    steps = plan(own, Wanted())
    assert settings(steps, LIBVIRTD_CONF)["listen_tls"] == 1
    [drop_in] = [step for step in steps if isinstance(step, File) and step.path.endswith("segue.conf")]
    assert "LIBVIRTD_ARGS=--listen" in drop_in.after
    assert plan(done(own, steps), Wanted()) == ()


def test_without_systemd_the_daemon_is_started_anew_with_listen():
    steps = plan(WITHOUT_SYSTEMD, Wanted(tcp=True))
    assert settings(steps, LIBVIRTD_CONF) == {"listen_tls": 1, "listen_tcp": 1}
    assert commands(steps)[-1].endswith("/usr/sbin/libvirtd --daemon --listen")
    assert plan(done(WITHOUT_SYSTEMD, steps), Wanted(tcp=True)) == ()


def test_tcp_asks_who_comes_unless_it_is_said_in_so_many_words_that_it_must_not():
    files = {**INSTALLED.files, LIBVIRTD_CONF: 'auth_tcp = "none"\n'}
    open_to_all = replace(INSTALLED, files=files, listening=frozenset({16509}))
    assert settings(plan(open_to_all, Wanted(tcp=True)), LIBVIRTD_CONF)["auth_tcp"] == "sasl"
    insecure = Wanted(tcp=True, insecure=True)
    assert settings(plan(INSTALLED, insecure), LIBVIRTD_CONF)["auth_tcp"] == "none"
    assert any("becomes root" in said for said in hostchecks.warnings(INSTALLED, insecure))
    assert any("becomes root" in said for said in hostchecks.warnings(open_to_all, Wanted()))
    assert hostchecks.warnings(INSTALLED, Wanted()) == ()
    with pytest.raises(RefusedError):
        plan(INSTALLED, Wanted(insecure=True))


def test_verification_of_certificates_that_was_switched_off_is_switched_on():
    careless = replace(INSTALLED, files={LIBVIRTD_CONF: "tls_no_verify_certificate = 1\n"})
    assert settings(plan(careless, Wanted()), LIBVIRTD_CONF)["tls_no_verify_certificate"] == 0


@pytest.mark.parametrize("uuid", ["", "0" * 32, "03000200040005000006000700080009", UUID])
def test_hosts_whose_firmware_gives_one_uuid_to_all_get_one_of_their_own(uuid):
    steps = plan(replace(INSTALLED, uuid=uuid), Wanted(uuids=frozenset({UUID})))
    assert settings(steps, LIBVIRTD_CONF)["host_uuid_source"] == "machine-id"
    own = replace(INSTALLED, uuid=uuid, files={LIBVIRTD_CONF: 'host_uuid = "x"\n'})
    assert not [step for step in plan(own, Wanted()) if isinstance(step, File) and step.path == LIBVIRTD_CONF]


def test_a_part_of_the_certificates_is_somebody_elses_and_left_alone():
    with pytest.raises(RefusedError, match="some certificates, and not all"):
        plan(replace(INSTALLED, certificates=frozenset(FILES[:1])), Wanted())


def test_a_host_without_apt_is_refused_only_when_it_lacks_something():
    with pytest.raises(RefusedError, match="no apt"):
        plan(replace(UNTOUCHED, apt=False), Wanted())
    assert plan(replace(INSTALLED, apt=False), Wanted())


def test_half_a_file_is_an_error_before_anything_is_done():
    with pytest.raises(HostSetupError, match="cannot be understood"):
        plan(replace(INSTALLED, files={LIBVIRTD_CONF: 'auth_tls = "no'}), Wanted())


def test_names_that_lead_nowhere_or_home_are_written_and_others_are_not():
    resolved = {"alpha": ("127.0.1.1",), "beta": (), "gamma": ("10.0.7.13",)}
    known = {"alpha": "10.0.7.11", "beta": "10.0.7.12", "gamma": "10.0.7.13"}
    wanted = names_to_write(resolved, known)
    assert wanted == {"alpha": "10.0.7.11", "beta": "10.0.7.12"}
    [step] = [one for one in plan(INSTALLED, Wanted(names=wanted)) if isinstance(one, File) and one.path == HOSTS]
    assert step.after.splitlines()[1:3] == ["10.0.7.11 alpha", "10.0.7.12 beta"]
    assert step.after.endswith("127.0.0.1 localhost\n")
    later = replace(INSTALLED, files={**INSTALLED.files, HOSTS: step.after})
    assert not [one for one in plan(later, Wanted()) if isinstance(one, File) and one.path == HOSTS]


def test_a_share_is_mounted_at_the_same_path_by_a_unit_of_its_own():
    share = Share(server="nas", path="/srv/guest-disks")
    assert share.unit == r"srv-guest\x2ddisks.mount"
    steps = plan(INSTALLED, Wanted(shares=(share,)))
    assert Install(packages=(NFS_CLIENT,)) in steps
    [unit] = [step for step in steps if isinstance(step, File) and step.path.endswith(".mount")]
    assert "What=nas:/srv/guest-disks\nWhere=/srv/guest-disks\n" in unit.after
    with pytest.raises(RefusedError, match="is other:/x already"):
        plan(replace(INSTALLED, mounts={share.path: "other:/x"}), Wanted(shares=(share,)))


def test_a_host_whose_clock_nothing_keeps_in_step_gets_something_that_does():
    drifting = replace(INSTALLED, container=False)
    assert Install(packages=("systemd-timesyncd",)) in plan(drifting, Wanted())
    off = replace(drifting, packages=drifting.packages | {"systemd-timesyncd"})
    assert "systemctl enable --now systemd-timesyncd.service" in commands(plan(off, Wanted()))
    assert plan(replace(drifting, time_service="chrony"), Wanted()) == plan(INSTALLED, Wanted())


def test_an_export_names_every_other_host():
    steps = plan(INSTALLED, Wanted(exports=("/srv/guests",), peers=("10.0.7.12", "10.0.7.13")))
    [file] = [step for step in steps if isinstance(step, File) and step.path == EXPORTS]
    options = "(rw,sync,no_subtree_check,no_root_squash)"
    assert Install(packages=("nfs-kernel-server",)) in steps
    assert not [step for step in steps if isinstance(step, Certificates) or "libvirt" in str(step)]
    assert file.after == f"/srv/guests 10.0.7.12{options} 10.0.7.13{options}\n"


@pytest.mark.parametrize(
    ("firewall", "argv"),
    [
        (Firewall(kind=FirewallKind.FIREWALLD), "firewall-cmd --permanent --add-port=49152-49215/tcp"),
        (Firewall(kind=FirewallKind.UFW), "ufw allow 49152:49215/tcp"),
        (
            Firewall(kind=FirewallKind.NFTABLES, chain=("inet", "filter", "input")),
            'nft insert rule inet filter input tcp dport 49152-49215 accept comment "segue"',
        ),
    ],
)
def test_a_firewall_is_told_and_opened_only_when_asked(firewall, argv):
    behind = replace(INSTALLED, firewall=firewall)
    assert any("16514, 49152-49215" in said for said in hostchecks.warnings(behind, Wanted()))
    assert argv not in commands(plan(behind, Wanted()))
    steps = plan(behind, Wanted(firewall=True))
    assert argv in commands(steps)
    assert all(step.undo for step in steps if isinstance(step, Command) and str(firewall.kind) in step.title)
    opened = replace(firewall, opened=frozenset({"16514", "49152-49215"}))
    assert argv not in commands(plan(replace(behind, firewall=opened), Wanted(firewall=True)))


def test_clocks_that_are_apart_for_certain_are_told():
    offsets = {"alpha": (0.0, 0.1), "beta": (1.1, 0.1), "gamma": (5.0, 0.1)}
    [finding] = hostchecks.clocks_apart(offsets, "alpha")
    assert "that of gamma are 5.0 s apart" in finding.text


def test_names_are_compared_with_what_they_are_on_the_others():
    resolved = {
        "alpha": {"alpha": ("127.0.1.1",), "beta": ("10.0.7.12",), "nas": (), "gamma": ("10.9.9.9",)},
        "beta": {"alpha": ("10.0.7.11",), "beta": ("127.0.1.1",), "nas": (), "gamma": ("10.0.7.13",)},
    }
    told = [finding.text for finding in hostchecks.names_apart(resolved, "alpha")]
    assert [text.split()[0] for text in told] == ["alpha", "nas", "gamma"]
    assert told[2] == "gamma is 10.9.9.9 there, and 10.0.7.13 on beta"


def test_a_journal_that_was_cut_short_says_so_and_knows_what_to_take_back():
    first, second = (Command(title=word, argv=(word,), undo=(f"un{word}",)) for word in ("one", "two"))
    lines = ['{"begin": 1}', intent(0, first), '{"done": 0}', '{"end": 2}', '{"begin": 3}', intent(1, second)]
    written = read_lines("\n".join([*lines, '{"do']))
    assert [one.step for one in written.taken] == [first, second]
    assert (written.whole, written.first, written.next) == (False, 1, 2)
    assert read_lines("\n".join([*lines, '{"undone": 1}', '{"undone": 0}'])).whole
    with pytest.raises(ValueError, match="Unterminated"):
        read_lines('{"do\n{"begin": 1}')
