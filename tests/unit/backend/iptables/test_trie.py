"""The prefix tree itself: its shape depends on the set alone, edits keep what they do not reach, depth is bounded."""

from __future__ import annotations

from collections.abc import Iterator

from hypothesis import given, settings
from hypothesis import strategies as st

from kproxy.backend.iptables import trie
from kproxy.backend.iptables.trie import Node, Shape, Stop
from kproxy.model.enums import Protocol
from kproxy.model.keys import ServicePortKey
from kproxy.plan.plan import Frontend, FrontendKind, Reject

SHAPES = {shape.bits: shape for shape in (trie.ADDRESSES4, trie.ADDRESSES6)}


def stop(at: int, number: int = 0, nth: int = 0) -> Stop:
    key = ServicePortKey("a", f"s{number}", "", Protocol.TCP)
    return Stop(at, key, nth, Frontend(FrontendKind.CLUSTER_IP, "x", 1 + number % 65535, Reject()))


def near(bits: int) -> st.SearchStrategy[int]:
    """Numbers of which many share long prefixes."""
    low = st.integers(0, 255)
    return st.one_of(low, low.map(lambda n: n << (bits - 9)), st.integers(0, bits - 1).map(lambda n: 1 << n))


@st.composite
def sets_of_stops(draw: st.DrawFn, bits: int) -> list[Stop]:
    return [stop(at, number) for number, at in enumerate(draw(st.lists(near(bits), max_size=60)))]


def nodes(node: Node) -> Iterator[Node]:
    yield node
    for child in node.children:
        yield from nodes(child)


def depth(node: Node) -> int:
    inside = node.by_port.children if node.by_port else node.children
    return 1 + max(map(depth, inside), default=0)


@settings(max_examples=150, deadline=None)
@given(st.data(), st.sampled_from(sorted(SHAPES)))
def test_an_edited_tree_equals_a_planted_one(data: st.DataObject, bits: int) -> None:
    shape = SHAPES[bits]
    everything = data.draw(sets_of_stops(bits))
    before = [each for each in everything if data.draw(st.booleans())]
    after = [each for each in everything if data.draw(st.booleans())]
    gone, new = set(before) - set(after), set(after) - set(before)
    assert trie.edit(shape, trie.plant(shape, before), gone, new) == trie.plant(shape, after)


@settings(max_examples=100, deadline=None)
@given(st.data(), st.sampled_from(sorted(SHAPES)))
def test_every_stop_is_in_its_own_group_and_only_there(data: st.DataObject, bits: int) -> None:
    planted = data.draw(sets_of_stops(bits))
    root = trie.plant(SHAPES[bits], planted)
    assert sorted(trie.stops(root)) == sorted(planted)
    for node in nodes(root):
        assert node.size == len(list(trie.stops(node)))
        for each in trie.stops(node):
            assert (each.at ^ node.network) >> (bits - node.length) == 0
        assert not (node.children and node.stops)
        assert len({child.network for child in node.children}) == len(node.children) <= 8


def test_an_edit_keeps_the_branches_that_it_does_not_reach() -> None:
    planted = [stop(n * 1024 + k, n * 8 + k) for n in range(8) for k in range(8)]
    before = trie.plant(trie.ADDRESSES4, planted)
    after = trie.edit(trie.ADDRESSES4, before, [planted[0]], [stop(5000, 99)])
    old = {id(node) for node in nodes(before)}
    fresh = [node for node in nodes(after) if id(node) not in old]
    assert len(fresh) < 10


def test_nothing_to_edit_gives_the_same_tree() -> None:
    root = trie.plant(trie.ADDRESSES4, [stop(n, n) for n in range(20)])
    assert trie.edit(trie.ADDRESSES4, root, (), ()) is root


def test_what_lies_close_together_needs_few_levels() -> None:
    root = trie.plant(trie.ADDRESSES4, [stop(0x0A600000 + 7 * n, n) for n in range(9000)])
    assert depth(root) <= 1 + trie.MAX_DEPTH
    assert max(len(node.stops) for node in nodes(root)) <= trie.LEAF


def test_addresses_chosen_to_make_the_tree_deep_do_not() -> None:
    planted = [stop(1 << bit | extra, bit * 8 + extra) for bit in range(3, 128) for extra in range(5)]
    assert depth(trie.plant(trie.ADDRESSES6, planted)) == 1 + trie.MAX_DEPTH


def test_one_address_with_many_ports_is_split_by_port() -> None:
    planted = [stop(0x0A600001, number) for number in range(500)] + [stop(0x0A600000 + n, 900 + n) for n in range(2, 9)]
    root = trie.plant(trie.ADDRESSES4, planted)
    (many,) = (node for node in nodes(root) if node.by_port)
    assert many.length == 32
    assert many.size == 500
    assert max(len(node.stops) for node in nodes(many.by_port or many)) <= trie.LEAF
    assert depth(root) <= 1 + trie.MAX_DEPTH


def test_a_level_on_which_nothing_branches_is_skipped() -> None:
    root = trie.plant(trie.ADDRESSES4, [stop(0x0A600000 + 4 * n, n) for n in range(6)])
    (child,) = root.children
    assert child.length == 26


def test_node_ports_are_grouped_within_one_protocol() -> None:
    at = [trie.node_port_number(protocol, 30000 + n) for protocol in trie.PROTOCOLS for n in range(50)]
    root = trie.plant(trie.NODE_PORTS, [stop(number, n) for n, number in enumerate(at)])
    for node in nodes(root):
        if node is not root:
            protocol, low, high = trie.port_range(node)
            for each in trie.stops(node):
                assert trie.PROTOCOLS[each.at >> 16] is protocol
                assert low <= each.at & 0xFFFF <= high


@given(st.integers(1, 128), st.integers(0), st.integers(0))
def test_what_two_numbers_share_ends_at_a_level(bits: int, first: int, second: int) -> None:
    shape, mask = Shape(bits), (1 << bits) - 1
    shared = shape.common(first & mask, second & mask)
    assert shared == 0 or (bits - shared) % trie.STRIDE == 0
    assert ((first ^ second) & mask) >> (bits - shared) == 0
