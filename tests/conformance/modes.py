"""Which proxy mode a run is of, and what of the scenarios belongs to it.

The rules of userspace mode are those of iptables mode, and end at our relay. So whatever was recorded or written for
iptables mode is asked in userspace mode as well, and must fare the same, but for this:

* An endpoint sees the node, whoever the client is. That is one rule for all probes, and stands in `relayed`.
* What is about the kernel's own part (the chains of endpoints, connections that outlive the program) says so:
  ``kernel_only``, at a scenario, a step or a probe, is the reason for which userspace mode passes it over.

Where a probe finds something else for a reason, it says so: ``userspace: {expect: ..., want: ...}``, which decides in
place of the record. ``modes: [userspace]`` is for what only this mode has; ``modes: [nftables]`` is of nobody here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

IPTABLES = "iptables"
USERSPACE = "userspace"
MODES = (IPTABLES, USERSPACE)
_OF = {IPTABLES: {IPTABLES}, USERSPACE: {IPTABLES, USERSPACE}}


def passed_over(marked: Mapping[str, Any], mode: str) -> str:
    """Why a scenario, a step or a probe is not of this mode; empty where it is."""
    if _OF[mode].isdisjoint(marked.get("modes", [IPTABLES])):
        return "not of this mode"
    return str(marked.get("kernel_only", "")) if mode == USERSPACE else ""


def expectation(expect: Any, mode: str) -> Any:
    """What a probe expects, where it may expect something else in each mode."""
    return expect.get(mode, expect.get(IPTABLES, "")) if isinstance(expect, dict) else expect
