"""Ports that nobody asked for: found on this machine, of a process that passes for a QEMU, and told from those that are named."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from segue.core.model import DriverKind, HostAddress
from segue.engine.listeners import Listener, unasked

HERE = HostAddress(name="here", uri="qmp:///", driver=DriverKind.QEMU)
LISTEN = """
import socket, sys
with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", int(sys.argv[-1]))) as other:
    print(one.getsockname()[1], flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize(
    ("words", "port", "asked"),
    [
        (("-incoming", "defer"), 49152, False),
        (("-incoming", "tcp:0:49152"), 49152, True),
        (("-vnc", "127.0.0.1:3"), 5903, True),
        (("-vnc", "127.0.0.1:3"), 5904, False),
        (("-smp", "3"), 5903, False),
        (("-spice", "port=5930,disable-ticketing=on"), 5930, True),
    ],
)
def test_a_port_is_asked_for_by_its_number(words: tuple[str, ...], port: int, asked: bool) -> None:
    assert Listener(host="here", pid=1, port=port, words=("qemu", *words)).was_asked_for is asked


def test_what_listens_unasked_is_found_with_its_guest(tmp_path: Path) -> None:
    program = tmp_path / "qemu-system-x86_64"
    shutil.copy(os.path.realpath(sys.executable), program)
    with socket.create_server(("127.0.0.1", 0)) as free:
        named = free.getsockname()[1]
    words = [str(program), "-c", LISTEN, "-name", "guest=odd one,debug-threads=on", str(named)]
    environment = {**os.environ, "PYTHONHOME": sys.base_prefix}
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        found, unseen = asyncio.run(unasked([HERE]))
        process.communicate()
    assert unseen == []
    assert [(one.guest, one.pid, one.port) for one in found if one.pid == process.pid] == [("odd one", process.pid, port)]
