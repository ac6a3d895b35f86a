"""Both databases: SQLite in a file of the test's own, and a PostgreSQL server that this run starts and ends."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import psycopg
import pytest

from segue.core.ports import Store
from segue.store import open_store

START_S = 30.0


class Server:
    """A PostgreSQL on loopback. It refuses to run as root, so root lends it the user that its package made."""

    def __init__(self, directory: Path) -> None:
        programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
        assert programs, "PostgreSQL is not installed: './run setup' installs it"
        self._programs = programs[-1]
        self._as = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
        if self._as:
            shutil.chown(directory, "postgres")
        self._data = directory / "data"
        self._run("initdb", "-D", str(self._data), "-U", "segue", "-A", "trust", "--no-sync")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        options = f"-c listen_addresses=127.0.0.1 -c port={self.port} -c unix_socket_directories={directory} -c fsync=off"
        log = str(directory / "log")
        self._run("pg_ctl", "-D", str(self._data), "-w", "-t", str(START_S), "-l", log, "-o", options, "start")
        self._databases = 0

    def _run(self, program: str, *words: str) -> None:
        argv = [*self._as, str(self._programs / program), *words]
        subprocess.run(argv, check=True, capture_output=True, timeout=2 * START_S, cwd="/")

    def database(self) -> str:
        """The URL of a new, empty database."""
        self._databases += 1
        name = f"segue{self._databases}"
        with psycopg.connect(host="127.0.0.1", port=self.port, user="segue", dbname="postgres", autocommit=True) as owner:
            owner.execute(f"CREATE DATABASE {name}".encode())
        return f"postgresql://segue@127.0.0.1:{self.port}/{name}"

    def pids(self) -> list[int]:
        """The server and everything that it has started."""
        main = int((self._data / "postmaster.pid").read_text(encoding="ascii").split()[0])
        parents = {}
        for path in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError):
                parents[int(path.parent.name)] = int(path.read_text(encoding="utf-8").rpartition(")")[2].split()[1])
        return [main, *(pid for pid, parent in parents.items() if parent == main)]

    def stop(self) -> None:
        self._run("pg_ctl", "-D", str(self._data), "-m", "immediate", "-w", "stop")


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Server]:
    with tempfile.TemporaryDirectory(prefix="segue-postgresql-", ignore_cleanup_errors=True) as directory:
        server = Server(Path(directory))
        try:
            yield server
        finally:
            server.stop()


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where an empty store is: a directory, or a URL."""
    if request.param == "sqlite":
        return str(tmp_path / "state")
    server: Server = request.getfixturevalue("postgresql")
    return server.database()


@pytest.fixture
def reach(place: str) -> Iterator[Callable[[], Store]]:
    """Opens the same store as often as wanted, as several processes would."""
    with ExitStack() as stack:

        def opened() -> Store:
            store = open_store(place)
            stack.callback(store.close)
            return store

        yield opened


@pytest.fixture
def store(reach: Callable[[], Store]) -> Store:
    return reach()


def until(sign: Callable[[], bool], deadline_s: float = 10.0) -> None:
    """Wait for what another process does."""
    deadline = time.monotonic() + deadline_s
    while not sign():
        assert time.monotonic() < deadline
        time.sleep(0.01)
