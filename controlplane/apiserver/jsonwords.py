"""What is wrong with a JSON text, in the words of Go's `encoding/json`, which clients and people know.

Bodies are parsed by a fast parser; only when it refuses one is the text gone through here, byte by byte as Go's scanner
does, for the first thing that is wrong. Source: `encoding/json` of the Go standard library (`scanner.go`).
"""

from __future__ import annotations

from typing import Any

_WORDS = {str: "string", bool: "bool", int: "number", float: "number", list: "array", dict: "object"}
_SPACE = b" \t\r\n"
_DIGITS = b"0123456789"
_HEXADECIMAL = b"0123456789abcdefABCDEF"
_ESCAPES = b'bfnrt\\/"u'


class _Wrong(Exception):
    """What is wrong, in Go's words."""


def json_word(value: Any) -> str:
    """What Go calls the type of a JSON value."""
    return _WORDS.get(type(value), "null")


def problem_of(text: bytes) -> str:
    """The first thing that is wrong with a JSON text; `invalid JSON` for what only our parser minds."""
    try:
        _Scanner(text).check()
    except _Wrong as wrong:
        return str(wrong)
    return "invalid JSON"


class _Scanner:
    """Walks a text without recursion, so that depth is no danger."""

    def __init__(self, text: bytes) -> None:
        self._text = text
        self._at = 0

    def check(self) -> None:
        """Go through the whole text. Raises `_Wrong`."""
        containers: list[int] = []
        self._value(containers, "looking for beginning of value")
        while containers:
            self._next_member(containers)
        self._skip_space()
        if self._at < len(self._text):
            raise self._invalid("after top-level value")

    def _peek(self) -> int:
        """The byte here. Raises `_Wrong` at the end."""
        if self._at >= len(self._text):
            raise _Wrong("unexpected end of JSON input")
        return self._text[self._at]

    def _invalid(self, context: str) -> _Wrong:
        character = chr(self._peek())
        shown = "\\'" if character == "'" else character if character.isprintable() else ascii(character)[1:-1]
        return _Wrong(f"invalid character '{shown}' {context}")

    def _skip_space(self) -> None:
        while self._at < len(self._text) and self._text[self._at] in _SPACE:
            self._at += 1

    def _value(self, containers: list[int], context: str) -> None:
        """A scalar, or the opening of a container, which goes on the stack."""
        self._skip_space()
        first = self._peek()
        if first in b"{[":
            containers.append(first)
            self._at += 1
            self._first_member(containers)
        elif first == ord('"'):
            self._string()
        elif first in b"-0123456789":
            self._number()
        elif first in b"tfn":
            self._literal({ord("t"): b"true", ord("f"): b"false", ord("n"): b"null"}[first])
        else:
            raise self._invalid(context)

    def _first_member(self, containers: list[int]) -> None:
        self._skip_space()
        if self._peek() == (ord("}") if containers[-1] == ord("{") else ord("]")):
            self._at += 1
            containers.pop()
        elif containers[-1] == ord("{"):
            self._key(containers)
        else:
            self._value(containers, "looking for beginning of value")

    def _key(self, containers: list[int]) -> None:
        self._skip_space()
        if self._peek() != ord('"'):
            raise self._invalid("looking for beginning of object key string")
        self._string()
        self._skip_space()
        if self._peek() != ord(":"):
            raise self._invalid("after object key")
        self._at += 1
        self._value(containers, "looking for beginning of value")

    def _next_member(self, containers: list[int]) -> None:
        self._skip_space()
        is_object = containers[-1] == ord("{")
        found = self._peek()
        if found == (ord("}") if is_object else ord("]")):
            self._at += 1
            containers.pop()
        elif found != ord(","):
            raise self._invalid("after object key:value pair" if is_object else "after array element")
        else:
            self._at += 1
            if is_object:
                self._key(containers)
            else:
                self._value(containers, "looking for beginning of value")

    def _string(self) -> None:
        self._at += 1
        while (found := self._peek()) != ord('"'):
            if found < 0x20:
                raise self._invalid("in string literal")
            self._at += 1
            if found == ord("\\"):
                escaped = self._peek()
                if escaped not in _ESCAPES:
                    raise self._invalid("in string escape code")
                self._at += 1
                for _ in range(4 if escaped == ord("u") else 0):
                    if self._peek() not in _HEXADECIMAL:
                        raise self._invalid("in \\u hexadecimal character escape")
                    self._at += 1
        self._at += 1

    def _digits(self, context: str) -> None:
        if self._peek() not in _DIGITS:
            raise self._invalid(context)
        while self._here() in _DIGITS:
            self._at += 1

    def _here(self) -> bytes:
        """The byte here; one that is in nothing at the end."""
        return self._text[self._at : self._at + 1] or b"\xff"

    def _number(self) -> None:
        if self._here() == b"-":
            self._at += 1
        if self._here() == b"0":
            self._at += 1
        else:
            self._digits("in numeric literal")
        if self._here() == b".":
            self._at += 1
            self._digits("after decimal point in numeric literal")
        if self._here() in b"eE":
            self._at += 1
            if self._here() in b"+-":
                self._at += 1
            self._digits("in exponent of numeric literal")

    def _literal(self, word: bytes) -> None:
        for letter in word:
            if self._peek() != letter:
                raise self._invalid(f"in literal {word.decode()} (expecting {chr(letter)!r})")
            self._at += 1
