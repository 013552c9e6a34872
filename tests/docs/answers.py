"""Whether a program printed what the document shows: `…` stands for what is left out there.

What differs from run to run (numbers, as a claim's ``varies`` says) becomes `*` on both sides before they are compared.
"""

from __future__ import annotations

import re
from collections.abc import Sequence


def differs(shown: str, printed: str, varies: Sequence[str] = ()) -> str:
    """The first part of ``shown`` that is not in ``printed``, in its order; empty if all is there."""
    for pattern in varies:
        shown, printed = (re.sub(pattern, "*", text, flags=re.MULTILINE) for text in (shown, printed))
    rest, parts = printed.strip(), shown.strip().split("…")
    for number, part in enumerate(parts):
        place = rest.find(part)
        # What stands before the first dots begins the answer, and what stands behind the last ones ends it.
        if place < 0 or (number == 0 and place > 0) or (number == len(parts) - 1 and not rest.endswith(part)):
            return part
        rest = rest[place + len(part) :]
    return ""
