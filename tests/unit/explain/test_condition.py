"""Conditions in words, those of what people meet most."""

from __future__ import annotations

import pytest

from kproxy.explain.packets.condition import in_words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("-o eth1", "it leaves by interface eth1"),
        ("not -o eth1", "it does not leave by interface eth1"),
        ("! -o eth1", "it does not leave by interface eth1"),
        ("not ! -o eth1", "it leaves by interface eth1"),
        ("-i cni+", "it comes in by an interface cni+"),
        ("! -i cni+", "it does not come in by an interface cni+"),
        ("-m set --match-set bad src", "its source is in ipset bad"),
        ("not -m set --match-set bad src,dst", "its source and destination is not in ipset bad"),
        ("-m set ! --match-set bad dst", "its destination is not in ipset bad"),
        ("-m owner --uid-owner 1000", "the process belongs to user 1000"),
        ("not -m owner --gid-owner 7", "the process does not belong to group 7"),
        ("-m physdev ! --physdev-is-in", "it does not come in by a port of a bridge"),
        ("not -m physdev ! --physdev-is-in", "it comes in by a port of a bridge"),
        ("-m limit --limit 5/min", "its rate is within 5/min (limit)"),
        ("not -m limit --limit 5/min --limit-burst 7", "its rate is above 5/min (limit)"),
        ("-s 10.0.0.0/8", "its source is within 10.0.0.0/8"),
        ("not -s 10.0.0.0/8", "its source is outside of 10.0.0.0/8"),
        ("! -d 10.0.0.0/8", "its destination is outside of 10.0.0.0/8"),
        ("none of 9 conditions, such as: -o a", "none of 9 conditions, such as: -o a"),
        ("-m u32 --u32 0x0=0x0", "`-m u32 --u32 0x0=0x0` holds"),
        ("not -m u32 --u32 0x0=0x0", "`-m u32 --u32 0x0=0x0` does not hold"),
        ("where -j DNAT [unsupported revision] leads", "it goes where `-j DNAT [unsupported revision]` leads"),
        ("-j SECMARK x accepts it", "`-j SECMARK x` accepts it"),
        ("not all of: -o a; -i b", "not all of: -o a; -i b"),
        ("any of 9 conditions, such as: -o a", "any of 9 conditions, such as: -o a"),
    ],
)
def test_a_condition_is_a_sentence(text: str, words: str) -> None:
    assert in_words([text]) == (words,)


@pytest.mark.parametrize(
    ("depends", "words"),
    [
        (("-i cali+", "-i cali1"), ("it comes in by interface cali1",)),
        (
            ("-i cali+", "not -i cali1", "not -i cali2"),
            ("it comes in by an interface cali+ other than cali1 or cali2",),
        ),
        (("not -i a", "-m u32 x", "not -i b"), ("it does not come in by interface a or b", "`-m u32 x` holds")),
        (("-i a", "not -o b"), ("it comes in by interface a", "it does not leave by interface b")),
        (tuple(f"not -o e{nth}" for nth in range(7)), ("it does not leave by interface e0, e1, e2 or one of 4 more",)),
    ],
)
def test_what_is_asked_of_one_interface_is_one_sentence(depends: tuple[str, ...], words: tuple[str, ...]) -> None:
    assert in_words(depends) == words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("-m rpfilter --invert", "the route to its source leads by another interface than it comes in by (rpfilter)"),
        (
            "not -m rpfilter --validmark --invert",
            "the route to its source leads by the interface by which it comes in (rpfilter)",
        ),
    ],
)
def test_the_way_back_is_a_sentence(text: str, words: str) -> None:
    assert in_words([text]) == (words,)
