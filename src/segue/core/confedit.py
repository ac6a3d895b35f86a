"""Configuration files of libvirt, changed without touching what is not meant: comments, order, settings that nobody here knows.

libvirt's own format (src/util/virconf.c) is, but for details, TOML without tables: ``name = value`` with strings, whole numbers
and lists of strings. tomlkit keeps every byte that it is not told to change. What it cannot read, libvirt could in rare cases:
that is an error, and the file stays as it is (docs/adr/0008-files-are-edited-by-tomlkit.md).

What may live here: reading and changing the text of such a file.
"""

from __future__ import annotations

from collections.abc import Mapping

import tomlkit
from tomlkit.exceptions import TOMLKitError

from segue.errors import HostSetupError

Value = str | int | tuple[str, ...]
"""A setting's value: a string, a whole number (also for yes and no), a list of strings."""


def read(path: str, text: str) -> dict[str, Value]:
    """What a file says.

    Args:
        path: of the file, for the error.
        text: what is in it.

    Raises:
        HostSetupError: it cannot be understood; with the line.
    """
    return {name: tuple(map(str, value)) if isinstance(value, list) else value for name, value in _parsed(path, text).items()}


def edited(path: str, text: str, settings: Mapping[str, Value]) -> str:
    """The same text with these settings; those that it has already stay where they are, new ones come last.

    Raises:
        HostSetupError: it cannot be understood; with the line.
    """
    document = _parsed(path, text)
    present = read(path, text)
    for name, value in settings.items():
        if present.get(name) != value:
            document[name] = list(value) if isinstance(value, tuple) else value
    return tomlkit.dumps(document)


def _parsed(path: str, text: str) -> tomlkit.TOMLDocument:
    try:
        return tomlkit.parse(text if not text or text.endswith("\n") else f"{text}\n")
    except TOMLKitError as error:
        raise HostSetupError(
            f"{path} cannot be understood: {str(error).rstrip('.')}. It was left as it is.",
            hint="Look at that line: half a setting, or a quotation mark too few. libvirt itself may fail to start with it.",
        ) from error
