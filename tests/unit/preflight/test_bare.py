"""What is read of a bare QEMU: command lines and QMP answers as QEMU 7.2 gives them, in excerpt."""

from __future__ import annotations

import pytest

from segue.core import argv
from segue.core.preflight import bare
from segue.core.preflight.facts import DiskPart, Kind, Part, Parts


def answers(**more: object) -> dict[str, object]:
    return {
        "query-version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": "Debian 1:7.2+dfsg-7"},
        "query-kvm": {"enabled": True, "present": True},
        "query-migrate": {},
        "query-cpus-fast": [{"cpu-index": 0, "qom-path": "/machine/unattached/device[0]"}],
        "query-hotpluggable-cpus": [{"type": "qemu64-x86_64-cpu", "vcpus-count": 1, "props": {"core-id": 0}}],
        "query-memory-size-summary": {"base-memory": 268435456, "plugged-memory": 0},
        "machine-type": "pc-q35-7.2-machine",
        "peripheral": [{"name": "type", "type": "string"}],
        "peripheral-anon": [{"name": "type", "type": "string"}],
        "expanded": {
            "model": {"name": "qemu64", "props": {"sse3": True, "lahf_lm": True, "avx": True, "svm": False, "xlevel": 9}}
        },
        "supported": {"model": {"name": "max", "props": {"sse3": True, "lahf_lm": True, "avx": False, "svm": True}}},
        **more,
    }


def read(*words: str, **more: object) -> Parts:
    line = argv.parse(["qemu-system-x86_64", "-name", "guest=web", "-m", "256", *words])
    return bare.read(line, answers(**more), user="", directory="/srv")


def plugged(name: str, driver: str) -> dict[str, object]:
    return {"peripheral": [{"name": name, "type": f"child<{driver}>"}]}


def test_machine_memory_and_cpu() -> None:
    found = read("-overcommit", "mem-lock=on")
    assert (found.machine, found.accelerator, found.qemu) == ("pc-q35-7.2", "kvm", (7, 2, 22))
    assert (found.memory.total_bytes, found.memory.locked) == (256 << 20, True)
    assert (found.cpu.model, found.cpu.mode, found.cpu.count) == ("qemu64", "custom", 1)
    assert found.cpu.features == {"sse3", "lahf-lm"}, "a feature that this QEMU filters is none that the guest sees"
    assert found.blocked == ()


def test_what_another_qemu_lacks_is_named() -> None:
    there = {"model": {"name": "max", "props": {"sse3": False, "lahf_lm": True, "lahf-lm": True}}}
    assert bare.lacking(frozenset({"sse3", "lahf-lm", "not-known-there"}), there) == ("sse3",)


@pytest.mark.parametrize(
    ("words", "model"),
    [
        ((), {"name": "qemu64", "props": {}}),
        (("-cpu", "qemu64,+avx,-sse3,check=off"), {"name": "qemu64", "props": {"avx": True, "sse3": False, "check": False}}),
        (("-cpu", "qemu64,tsc-frequency=2400000000"), {"name": "qemu64", "props": {}}),
    ],
)
def test_the_cpu_that_is_asked_about_is_the_guests(words: tuple[str, ...], model: dict[str, object]) -> None:
    assert bare.cpu_query(argv.parse(["qemu", *words]), "qemu64-x86_64-cpu") == model


@pytest.mark.parametrize(
    ("words", "more", "part"),
    [
        (
            ("-device", "vfio-pci,id=gpu,host=3b:10.2"),
            plugged("gpu", "vfio-pci"),
            Part(kind=Kind.PCI, name="gpu", what="host 3b:10.2"),
        ),
        (
            ("-device", "vfio-pci,id=gpu,sysfsdev=/sys/bus/mdev/devices/c2177883"),
            plugged("gpu", "vfio-pci"),
            Part(kind=Kind.MDEV, name="gpu", what="sysfsdev /sys/bus/mdev/devices/c2177883"),
        ),
        (
            ("-device", "vfio-pci,id=nic,host=3b:10.2,failover_pair_id=spare"),
            plugged("nic", "vfio-pci"),
            Part(kind=Kind.PCI, name="nic", what="host 3b:10.2", failover=True),
        ),
        ((), plugged("stick", "usb-host"), Part(kind=Kind.USB, name="stick", what="usb-host")),
        (
            ("-device", "ivshmem-plain,id=m,memdev=x"),
            plugged("m", "ivshmem-plain"),
            Part(kind=Kind.SHMEM, name="m", what="ivshmem-plain"),
        ),
        (("-device", "ivshmem-plain,id=m,memdev=x,master=on"), plugged("m", "ivshmem-plain"), None),
        (
            ("-chardev", "socket,id=c,path=/run/v.sock", "-netdev", "vhost-user,id=n,chardev=c"),
            {},
            Part(kind=Kind.VHOST_USER, name="n", what="/run/v.sock", path="/run/v.sock"),
        ),
        (
            ("-device", "vhost-vsock-pci,id=v,guest-cid=3"),
            plugged("v", "vhost-vsock-pci"),
            Part(kind=Kind.VSOCK, name="v", what="guest-cid 3"),
        ),
        (
            ("-tpmdev", "passthrough,id=t,path=/dev/tpm0", "-device", "tpm-tis,id=tpm0,tpmdev=t"),
            plugged("tpm0", "tpm-tis"),
            Part(kind=Kind.TPM_HOST, name="tpm0", what="tpm-tis"),
        ),
        (("-vnc", "10.0.0.1:1"), {}, Part(kind=Kind.VNC, name="vnc", what="10.0.0.1:1", ports=(5901,), listens="10.0.0.1")),
        (("-vnc", ":1,to=9,password=on"), {}, Part(kind=Kind.VNC, name="vnc", what=":1", password=True)),
        (("-serial", "file:/var/log/x"), {}, Part(kind=Kind.OUTPUT, name="serial", what="/var/log/x", path="/var/log/x")),
    ],
)
def test_devices(words: tuple[str, ...], more: dict[str, object], part: Part | None) -> None:
    assert read(*words, **more).devices == ((part,) if part else ())


def test_disks_media_and_what_is_below() -> None:
    def inserted(file: str, **more: object) -> dict[str, object]:
        cache = {"no-flush": False, "direct": True, "writeback": True}
        image = {"virtual-size": 7, **more}
        return {"node-name": "#1", "drv": "qcow2", "file": file, "ro": False, "cache": cache, "image": image}

    base = {"backing-image": {"filename": "/srv/base"}}
    blocks = [
        {"device": "disk0", "qdev": "/machine/peripheral/vda/virtio-backend", "inserted": inserted("/srv/a", **base)},
        {"device": "ide1-cd0", "qdev": "/machine/unattached/device[23]", "removable": True, "inserted": inserted("/srv/x.iso")},
        {"device": "net", "removable": False, "inserted": inserted("nfs://storage/b")},
    ]
    found = read(**{"query-block": blocks})
    assert found.disks == (
        DiskPart(name="disk0", path="/srv/a", format="qcow2", backing=("/srv/base",), virtual_bytes=7),
        DiskPart(name="net", url="nfs://storage/b", format="qcow2", virtual_bytes=7),
    )
    assert found.devices == (Part(kind=Kind.CDROM, name="ide1-cd0", what="/srv/x.iso", path="/srv/x.iso"),)


def test_a_disk_that_guests_share_by_agreement() -> None:
    blocks = [{"device": "d0", "inserted": {"node-name": "#1", "drv": "raw", "file": "/srv/a", "ro": False}}]
    assert read("-device", "virtio-blk-pci,drive=d0,share-rw=on", **{"query-block": blocks}).disks[0].shared
    assert not read("-device", "virtio-blk-pci,drive=d0", **{"query-block": blocks}).disks[0].shared


def test_reasons_of_qemu_itself() -> None:
    reason = "0000:00:04.0/ivshmem: device is marked as peer"
    assert read(**{"query-migrate": {"blocked-reasons": [reason]}}).blocked == (reason,)
