"""JSON cut into its pieces where the decoder gives up: the members of an object, the elements of an array.

The decoder recurses and checks every escape even of what it skips, so one object that nests a thousand levels deep, or
holds half of a surrogate pair, makes a whole list unreadable; anybody who may write one object would silence the node
for all of them. Here only quotes, brackets and separators are looked at, without recursion, and each piece is left to
the decoder on its own. It takes 20 to 50 times longer (a second for 3 MB), so it is for the exception. Rejected:
guessing at text that is cut off; half a list would look like a cluster in which the other half was deleted.
"""

from __future__ import annotations

import re

import msgspec

# Nothing here goes back over what it has matched, so that no text takes longer than its length.
_TEXT = rb'"(?:[^"\\]++|\\.)*+"'
_PLAIN = rb'[^][{}"]++|%s' % _TEXT
for _ in range(3):  # whatever nests no deeper than an ordinary object is one step
    _PLAIN = rb'[^][{}"]++|%s|\{(?:%s)*+\}|\[(?:%s)*+\]' % (_TEXT, _PLAIN, _PLAIN)
_INNER = re.compile(rb"(?:%s)*+([][{}])" % _PLAIN, re.DOTALL)
_OUTER = re.compile(rb"(?:%s)*+([][{},])" % _PLAIN.replace(b'"]++', b'",]++', 1), re.DOTALL)
_NAME = re.compile(_TEXT, re.DOTALL)
_CLOSING = {b"{": b"}", b"[": b"]"}


class Unscannable(Exception):
    """The text is no whole object or array."""


def members(data: bytes) -> dict[str, bytes]:
    """The members of an object, each as its own JSON; the last of those with one name. Raises ``Unscannable``."""
    found: dict[str, bytes] = {}
    for piece in _pieces(data, b"{"):
        name = _NAME.match(piece)
        if name is None:
            raise Unscannable
        colon, value = piece[name.end() :].lstrip()[:1], piece[name.end() :].lstrip()[1:].strip()
        if colon != b":" or not value:
            raise Unscannable
        try:
            found[msgspec.json.decode(name[0], type=str)] = value
        except (msgspec.DecodeError, UnicodeDecodeError):
            continue  # nobody asks for a name that is no text
    return found


def elements(data: bytes) -> list[bytes]:
    """The elements of an array, each as its own JSON. Raises ``Unscannable``."""
    return _pieces(data, b"[")


def _pieces(data: bytes, opening: bytes) -> list[bytes]:
    """What stands between the commas of the outermost pair of brackets."""
    data = data.strip()
    if data[:1] != opening:
        raise Unscannable
    expected = [_CLOSING[opening]]
    pieces: list[bytes] = []
    start = at = 1
    while expected:
        step = (_OUTER if len(expected) == 1 else _INNER).match(data, at)
        if step is None:
            raise Unscannable  # it ends too early, perhaps within a text
        sign, at = step[1], step.end()
        if sign in _CLOSING:
            expected.append(_CLOSING[sign])
        elif sign != b"," and expected.pop() != sign:
            raise Unscannable
        if sign == b"," or not expected:
            pieces.append(data[start : at - 1].strip())
            start = at
    if start != len(data):
        raise Unscannable
    return [] if pieces == [b""] else pieces
