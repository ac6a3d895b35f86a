"""Which accelerator the lab's guests use: KVM where a guest has really booted under it, else TCG.

/dev/kvm that opens proves nothing: there are machines where a stock kernel executes no instruction under it (seen: the BIOS, then
nothing, one core at 100 %). So a guest is booted, once, with a short deadline; the verdict is kept until the kernel, QEMU or the
guest changes.
What may live here: the probe and its cache.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import platform
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from segue.lab import kernel

BOOT_DEADLINE_S: Final = 8.0
"""Under KVM the guest ticks after less than a second; TCG takes two."""
CACHE: Final = Path("/var/cache/segue/accelerator.json")
QEMU: Final = "qemu-system-x86_64"


@dataclass(frozen=True, slots=True, kw_only=True)
class Accelerator:
    """The verdict.

    Attributes:
        name: ``kvm`` or ``tcg``.
        reason: why, one clause.
    """

    name: str
    reason: str


async def accelerator() -> Accelerator:
    """The accelerator for this machine, from the cache or by booting a guest.

    Raises:
        LabError: the guest is not built.
    """
    if known := cached():
        return known
    verdict = await _probe()
    with contextlib.suppress(OSError):  # a cache that cannot be written costs a probe next time
        CACHE.parent.mkdir(parents=True, exist_ok=True)
        CACHE.write_text(json.dumps({"key": _key(), **asdict(verdict)}), encoding="utf-8")
    return verdict


def cached() -> Accelerator | None:
    """The verdict if it is known, without booting anything."""
    with contextlib.suppress(OSError, ValueError, TypeError):
        known = json.loads(CACHE.read_text(encoding="utf-8"))
        if known.pop("key") == _key():
            return Accelerator(**known)
    return None


def _key() -> str:
    """Changes when something changes that may change the verdict."""
    qemu = Path(shutil.which(QEMU) or QEMU)
    parts = [platform.release(), *(str(path.stat().st_mtime_ns) for path in (qemu, kernel.image()) if path.exists())]
    parts.append(str(os.access("/dev/kvm", os.R_OK | os.W_OK)))
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()


async def _probe() -> Accelerator:
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return Accelerator(name="tcg", reason="there is no usable /dev/kvm")
    argv = ["setpriv", "--pdeathsig", "KILL", QEMU]  # whoever probes may be killed, and then nobody else ends it
    argv += ["-machine", "q35,accel=kvm", "-cpu", "qemu64", "-m", "256", "-nodefaults", "-display", "none", "-no-reboot"]
    argv += [
        "-kernel",
        str(kernel.image()),
        "-initrd",
        str(kernel.initramfs()),
        "-append",
        kernel.cmdline({}),
        "-serial",
        "stdio",
    ]
    process = await asyncio.create_subprocess_exec(
        *argv, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        return await _first_tick(process)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def _first_tick(process: asyncio.subprocess.Process) -> Accelerator:
    assert process.stdout is not None  # noqa: S101  # a pipe was asked for
    try:
        async with asyncio.timeout(BOOT_DEADLINE_S):
            async for line in process.stdout:
                if line.startswith(b"T "):
                    return Accelerator(name="kvm", reason="a guest booted under it")
    except TimeoutError:
        return Accelerator(name="tcg", reason=f"a guest did not boot under KVM within {BOOT_DEADLINE_S:g} s")
    return Accelerator(name="tcg", reason="QEMU does not start with KVM")
