"""What can be wrong with what a peer sends: each is a row of `DEEDS`, a function from a message to bytes and what comes then."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, Final

Json = dict[str, Any]

HUGE_BYTES: Final = 100_000_000
_PIECE: Final = b"x" * (1 << 16)


class Then(Enum):
    """What the peer does after it has sent that."""

    GO_ON = auto()
    CLOSE = auto()
    STALL = auto()
    """Reads on, and says nothing any more."""
    DEAF = auto()
    """Does not even read any more."""
    CHATTER = auto()
    """Sends events without end, and nothing else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One thing that is wrong.

    Attributes:
        at: with which of the things that the peer sends, from 0 (its greeting).
        do: a key of `DEEDS`.
        which: where the deed has a choice; any number.
        again: with everything from there on.
    """

    at: int
    do: str
    which: int = 0
    again: bool = False


Sent = tuple[Iterable[bytes], Then]
Deed = Callable[[Json, int], Sent]

# In place of any value: nothing, wrong types, numbers that are none, words that are none.
ODD_VALUES: Final[tuple[Any, ...]] = (
    None,
    True,
    False,
    0,
    -1,
    1 << 63,
    1 << 64,
    10**30,
    -(10**30),
    0.5,
    1e308,
    -1e308,
    float("nan"),
    float("inf"),
    "",
    "x",
    "y" * 5000,
    "\ud800",
    "\x1b[2J\n\0",
    [],
    {},
    [[]],
    [{}],
    [None],
    {"": None},
)
# Words that QEMU knows, in the wrong place; and some that it may know tomorrow.
WORDS: Final = {
    "status": (
        "none",
        "setup",
        "active",
        "device",
        "pre-switchover",
        "postcopy-active",
        "postcopy-paused",
        "completed",
        "failed",
        "cancelling",
        "cancelled",
        "running",
        "paused",
        "prelaunch",
        "inmigrate",
        "postmigrate",
        "finish-migrate",
        "shutdown",
        "guest-panicked",
        "colo",
        "postcopy-of-tomorrow",
        "",
    ),
}


def _line(message: object) -> bytes:
    return json.dumps(message).encode() + b"\r\n"


def _raw(line: bytes, then: Then = Then.GO_ON) -> Deed:
    return lambda _, __: ((line,), then)


def _with(message: Json, **changed: object) -> Sent:
    return (_line({**message, **changed}),), Then.GO_ON


def _half(then: Then) -> Deed:
    return lambda message, _: ((_line(message)[: len(_line(message)) // 2],), then)


def _without(message: Json, key: str) -> Sent:
    return (_line({name: value for name, value in message.items() if name != key}),), Then.GO_ON


def _huge(message: Json, _: int) -> Sent:
    def pieces() -> Iterator[bytes]:
        yield b'{"id": ' + json.dumps(message.get("id")).encode() + b', "return": "'
        for _ in range(HUGE_BYTES // len(_PIECE)):
            yield _PIECE
        yield b'"}\r\n'

    return pieces(), Then.GO_ON


def _raw_return(message: Json, text: str) -> Sent:
    return (f'{{"id": {json.dumps(message.get("id"))}, "return": {text}}}\r\n'.encode(),), Then.GO_ON


def _pick(values: tuple[Any, ...], which: int) -> Any:
    return values[which % len(values)]


def places(value: object, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Every place in a message at which something stands."""
    items: Iterable[tuple[str | int, object]] = ()
    if isinstance(value, dict):
        items = [(key, one) for key, one in value.items() if path or key != "id"]
    elif isinstance(value, list):
        items = list(enumerate(value))[:3]  # the fourth of a list is like the third
    for key, one in items:
        yield (*path, key)
        yield from places(one, (*path, key))


def _replaced(value: Any, path: tuple[str | int, ...], new: object) -> Any:
    if not path:
        return new
    made: Any = dict(value) if isinstance(value, dict) else list(value)
    made[path[0]] = _replaced(value[path[0]], path[1:], new)
    return made


def _field(message: Json, which: int) -> Sent:
    where = list(places(message))
    path = where[which % len(where)]
    return (_line(_replaced(message, path, _pick(ODD_VALUES, which // len(where)))),), Then.GO_ON


def _missing(message: Json, which: int) -> Sent:
    where = [path for path in places(message) if isinstance(path[-1], str)]
    path = where[which % len(where)]
    parent: Any = json.loads(json.dumps(message))
    made = parent
    for key in path[:-1]:
        parent = parent[key]
    del parent[path[-1]]
    return (_line(made),), Then.GO_ON


def _word(message: Json, which: int) -> Sent:
    where = [path for path in places(message) if path[-1] in WORDS]
    if not where:
        return (_line(message),), Then.GO_ON
    path = where[which % len(where)]
    return (_line(_replaced(message, path, _pick(WORDS[str(path[-1])], which))),), Then.GO_ON


ODD_ERRORS: Final[tuple[Any, ...]] = (
    5,
    None,
    [],
    {},
    {"class": 1, "desc": 2},
    {"class": "GenericError"},
    {"class": "E" * 9000, "desc": "\ud800\x1b[2J" * 999},
)


def _odd_error(message: Json, which: int) -> Sent:
    return (_line({**_base(message), "error": _pick(ODD_ERRORS, which)}),), Then.GO_ON


def _rather_deep(message: Json, which: int) -> Sent:
    depth = which % 900 + 100
    return _raw_return(message, '{"status": ' * depth + "1" + "}" * depth)


DEEDS: Final[dict[str, Deed]] = {
    # it goes away, or says nothing
    "close": _raw(b"", Then.CLOSE),
    "answer and close": lambda message, _: ((_line(message),), Then.CLOSE),
    "half a line and close": _half(Then.CLOSE),
    "half a line and stall": _half(Then.STALL),
    "stall": _raw(b"", Then.STALL),
    "deaf": _raw(b"", Then.DEAF),
    "swallow": _raw(b""),
    # what comes is no QMP
    "garbage": _raw(bytes(range(128, 256)) + b"\r\n"),
    "no utf-8": lambda message, _: ((_line(message).replace(b'"', b'"\xff\xfe', 1),), Then.GO_ON),
    "utf-16": lambda message, _: ((json.dumps(message).encode("utf-16") + b"\n",), Then.GO_ON),
    "no json": _raw(b"{'return': {}}\r\n"),
    "empty line": _raw(b"\r\n"),
    "null": _raw(b"null\r\n"),
    "list": lambda message, _: ((_line([message]),), Then.GO_ON),
    "nothing in it": _raw(b"{}\r\n"),
    "nul": lambda message, _: ((b"\0" + _line(message),), Then.GO_ON),
    # it is too much
    "100 MB": _huge,
    "deep": lambda message, _: _raw_return(message, "[" * 100_000 + "]" * 100_000),
    "rather deep": _rather_deep,
    "many digits": lambda message, _: _raw_return(message, '{"status": ' + "9" * 5000 + "}"),
    "events without end": _raw(b"", Then.CHATTER),
    "many events": lambda message, _: ((_line({"event": "STOP", "timestamp": {}}) * 300, _line(message)), Then.GO_ON),
    "odd event": lambda message, which: (
        (_line({"event": _pick(ODD_VALUES, which), "id": message.get("id")}), _line(message)),
        Then.GO_ON,
    ),
    # it is no answer to that
    "wrong id": lambda message, _: _with(message, id="__qmp#99999"),
    "another's id": lambda message, which: _with(message, id=f"__qmp#{which % 12:05d}"),
    "odd id": lambda message, which: _with(message, id=_pick(ODD_VALUES, which)),
    "no id": lambda message, _: _without(message, "id"),
    "twice": lambda message, _: ((_line(message) * 2,), Then.GO_ON),
    "three times and close": lambda message, _: ((_line(message) * 3,), Then.CLOSE),
    "both": lambda message, _: _with(message, error={"class": "GenericError", "desc": "No"}),
    "two of one key": lambda message, _: _raw_return(message, '{"status": "running", "status": ["running"]}'),
    "an error": lambda message, _: _with(_base(message), error={"class": "GenericError", "desc": "No."}),
    "an error without id": _raw(_line({"error": {"class": "GenericError", "desc": "JSON parse error"}})),
    "an odd error": _odd_error,
    "no answer in it": lambda message, _: ((_line(_base(message)),), Then.GO_ON),
    # one value of it is not what it should be
    "a field": _field,
    "a missing field": _missing,
    "a word": _word,
}
CHOOSE: Final = frozenset({"a field", "a missing field", "a word", "another's id", "odd id", "odd event", "an odd error"})
"""Deeds that have many ways."""
LIES: Final = frozenset({"a word", "another's id"})
"""What is well said and not true: no peer can tell these from the truth, where nobody else knows it."""


def _base(message: Json) -> Json:
    return {"id": message["id"]} if "id" in message else {}


def deed(fault: Fault, message: Json) -> Sent:
    """What is sent in place of that message, and what the peer does then."""
    return DEEDS[fault.do](message, fault.which)
