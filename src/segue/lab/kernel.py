"""The lab's guest as it was built: its kernel, its initramfs, and what the two need of the machine that they run on.

What may live here: where ``guest/build.sh`` put them, the kernel's command line, the size of its memory. See guest/ for what runs
inside.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from segue import units
from segue.errors import LabError

# Timers are not probed: under software emulation that costs half a second of boot. Page-table isolation stays on, whatever the
# CPU: the kernel then reloads CR3 at every entry and exit, which empties the TLB that `memory_bytes` tells of. Seen with QEMU
# 7.2: guests that wrote 80 MiB/s or more panicked after each of five post-copy moves without it, and after none of five with it.
_QUICK: Final = "console=ttyS0 quiet loglevel=3 tsc=reliable no_timer_check pti=on"


def directory() -> Path:
    """Where the built guest is: ``$SEGUE_GUEST_DIR``, or guest/build of the checkout that this package runs from."""
    named = os.environ.get("SEGUE_GUEST_DIR")
    return Path(named) if named else Path(__file__).parents[3] / "guest" / "build"


def image() -> Path:
    """The guest's kernel.

    Raises:
        LabError: it is not built.
    """
    return _built("vmlinuz")


def initramfs() -> Path:
    """The guest's first file system.

    Raises:
        LabError: it is not built.
    """
    return _built("initramfs.cpio.gz")


def _built(name: str) -> Path:
    path = directory() / name
    if not path.exists():
        raise LabError(
            f"The lab's guest is not built: there is no {path}.", hint="'./run setup' builds it; guest/build.sh alone does, too."
        )
    return path


def cmdline(settings: Mapping[str, object]) -> str:
    """The kernel's command line; guest/init reads the settings from it."""
    return " ".join([_QUICK, *(f"segue.{name}={value}" for name, value in settings.items())])


_MORE: Final = 8 * units.KIB
"""QEMU rounds a PC's memory up to that (hw/core/machine.c)."""


def memory_bytes(wanted: int, accelerator: str) -> int:
    """The memory to give to a guest, so that it loses none of it when it moves.

    QEMU before 9.0 loses writes of a guest that it emulates itself (TCG) while the guest migrates: it takes the dirty bits, 64
    pages at a time, and forgets the vCPU's TLB, so a page that was written before and is written again goes unseen ("physmem: Fix
    migration dirty bitmap coherency with TCG memory access", QEMU 9.0). `_QUICK` makes that rare, and so does guest/workload.c,
    which sends each of several CPUs through user space every 2 ms; what the guest's kernel writes while it idles is still lost
    now and then, and it never ticks again: 3 of 14 guests, moved by libvirt 4 s after their start, pinged all the while. Memory
    that does not come in 64s of pages QEMU takes page by page, and does not forget: 0 of 25, and no slower.
    """
    return wanted + _MORE if accelerator == "tcg" else wanted
