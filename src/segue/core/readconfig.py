"""Read the files that ``-readconfig`` names: options in another spelling. What may live here: text → options, no I/O.

The grammar is QEMU's (util/qemu-config.c, qemu_config_foreach): ``[group]`` or ``[group "id"]``, then lines ``key = "value"``
in which a value has no quotes; ``#`` begins a comment.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from segue.core.argv import CommandLine, Option, join_list

_GROUP: Final = re.compile(r'\[([^\s\]"]+)(?:\s+"([^"]*)")?\]')
_PAIR: Final = re.compile(r'\s*([^\s=]+)\s*=\s*"([^"]*)"')
# Groups whose option has another name (softmmu/vl.c, where each list is filled).
_OPTION_OF: Final = {"memory": "m", "smp-opts": "smp", "boot-opts": "boot", "cpu-def": "cpu"}


def options(text: str) -> tuple[Option, ...]:
    """The options that a file stands for, in its order.

    Raises:
        ValueError: a line that QEMU would not take either.
    """
    groups: list[tuple[str, list[tuple[str, str]]]] = []
    for line in text.splitlines():
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if found := _GROUP.match(line):
            name, identity = found[1], found[2]
            groups.append((_OPTION_OF.get(name, name), [("id", identity)] if identity is not None else []))
        elif (found := _PAIR.match(line)) and groups:
            groups[-1][1].append((found[1], found[2]))
        else:
            raise ValueError(line)
    return tuple(Option(name=name, value=join_list(pairs)) for name, pairs in groups)


def expanded(line: CommandLine, files: Mapping[str, str]) -> CommandLine:
    """The command line with what its files say in place of their names. A file that is not at hand stays a name.

    Args:
        line: with or without ``-readconfig``.
        files: the text of each file, by its name on the command line.

    Raises:
        ValueError: as `options`.
    """
    kept: list[Option] = []
    for option in line.options:
        text = files.get(option.value or "") if option.name == "readconfig" else None
        kept.extend([option] if text is None else options(text))
    return replace(line, options=tuple(kept))
