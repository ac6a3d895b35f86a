"""What a verb says that leads a migration: when nobody listens any more, it is led to its end all the same.

A reader that has gone (`| head`) or a terminal that has (an ssh connection that broke) makes every further word an error, and one
that ends the process would leave a guest half-way. What a lost terminal means besides is its signal's (SIGHUP) to say. What may
live here: streams that take words for nobody.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO, cast


class _Patient:
    """A stream that goes nowhere from the first word on that cannot be said."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write it, or not."""
        with self._or_nowhere():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Let what was written go, or not."""
        with self._or_nowhere():
            self._stream.flush()

    @contextlib.contextmanager
    def _or_nowhere(self) -> Iterator[None]:
        try:
            yield
        except OSError:  # EPIPE of a reader, EIO of a terminal
            with Path(os.devnull).open("wb") as nowhere:
                os.dup2(nowhere.fileno(), self._stream.fileno())  # also what is buffered, which the interpreter writes at its end

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401  # whatever else a stream has
        return getattr(self._stream, name)


@contextlib.contextmanager
def whoever_listens() -> Iterator[None]:
    """Within this, stdout and stderr raise no error when there is nobody at the other end."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (cast("TextIO", _Patient(stream)) for stream in before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
