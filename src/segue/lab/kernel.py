"""The lab's guest as it was built: its kernel, its initramfs, and the words that its kernel is given.

What may live here: where ``guest/build.sh`` put them, and the kernel's command line. See guest/ for what runs inside.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from segue.errors import LabError

# No probing of timers and no mitigations: under software emulation they cost half a second of boot and protect nothing.
_QUICK: Final = "console=ttyS0 quiet loglevel=3 tsc=reliable no_timer_check mitigations=off"


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
