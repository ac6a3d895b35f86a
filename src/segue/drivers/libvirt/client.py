"""libvirt's client of a direct migration that may go over to post-copy: a process of its own, which outlives Segue where it must.

From the moment in which post-copy begins until that client has asked the destination for the finish, the destination's guest
hangs on its connection: when it closes, libvirt ends what has arrived (9.0, qemuProcessAutoDestroy), and QEMU does not let the
source go on any more. So the migrate call is not made by the process that people kill. Until post-copy is asked for, this one
ends with Segue, and libvirt turns back; from then on it stays until its call has returned.

What may live here: that process (`python -m segue.drivers.libvirt.client`), and how it is started and spoken to.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from typing import Final, TextIO

import libvirt

from segue.drivers.libvirt import runtime
from segue.errors import HypervisorError

_STAY: Final = "stay"


class Client:
    """Such a process, which has been told what to do.

    Args:
        host: the source, for errors.
        source, destination: URIs of both daemons.
        guest: its name on the source.
        parameters, flags: of libvirt's migrate call.
    """

    def __init__(
        self, host: str, *, source: str, destination: str, guest: str, parameters: Mapping[str, object], flags: int
    ) -> None:
        self._host = host
        pipe = subprocess.PIPE
        argv = [sys.executable, "-m", __name__]
        self._process = subprocess.Popen(  # ourselves
            argv, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True, start_new_session=True
        )
        words = {"source": source, "destination": destination, "guest": guest, "parameters": parameters, "flags": flags}
        self._tell(json.dumps(words))

    def stay(self) -> None:
        """Post-copy is about to be asked for: see it through, whatever becomes of us."""
        self._tell(_STAY)

    def release(self) -> None:
        """We go. It ends, too, unless it is to stay. May be repeated."""
        with contextlib.suppress(OSError):
            _present(self._process.stdin).close()

    def result(self) -> None:
        """Wait until libvirt's call has returned. Blocks: for a thread of `runtime`.

        Raises:
            HypervisorError: as libvirt says, or that process has died.
        """
        with _present(self._process.stdout) as stdout:
            line = stdout.readline()
        self.release()
        self._process.wait()
        if not line:
            raise HypervisorError(f"The process that made libvirt's call on {self._host} has died.", host=self._host)
        error = json.loads(line)
        if error is not None:
            raise runtime.told(self._host, error)

    def _tell(self, line: str) -> None:
        stdin = _present(self._process.stdin)
        with contextlib.suppress(OSError, ValueError):  # it is gone, or `result` has closed it: that call has returned, or will
            stdin.write(f"{line}\n")
            stdin.flush()


def _present(pipe: object) -> TextIO:
    if pipe is None:
        raise AssertionError("it was started with pipes")
    return pipe  # type: ignore[return-value]  # subprocess knows no text pipes


def _main() -> None:
    """Make the call that the first line of stdin tells, and say how it ended."""
    words = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    error = None
    try:
        source, destination = (runtime.opened(words[end]) for end in ("source", "destination"))
        source.lookupByName(words["guest"]).migrate3(destination, words["parameters"], words["flags"])
    except libvirt.libvirtError as raised:
        error = runtime.said(raised)
    with contextlib.suppress(OSError):  # nobody waits for it any more
        print(json.dumps(error), flush=True)  # noqa: T201  # for `Client.result`
    os._exit(0)  # libvirt's event loop has a thread of its own that nobody ends


def _end_with_parent() -> None:
    """Where the parent dies before it asked for post-copy, so do we: libvirt turns back."""
    if _STAY not in (line.strip() for line in sys.stdin):
        os._exit(1)


if __name__ == "__main__":
    _main()
