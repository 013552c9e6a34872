"""One example: a cluster that is right, and objects of which something is wrong that come into it and go again."""

from __future__ import annotations

from typing import NamedTuple

from hypothesis import strategies as st
from msgspec.structs import replace

from kproxy.config import Config, DetectLocalMode
from tests.fuzz.hostile import encode, mutated, spoilt
from tests.fuzz.journey import CONFIG
from tests.fuzz.objects import OBJECTS, Document, good_documents, good_worlds, mostly

_SMALL_TREES = {"tree_threshold": 2, "endpoint_tree_threshold": 2, "large_cluster_endpoints": 2}
CONFIGS = (
    CONFIG,
    replace(CONFIG, masquerade_all=True, nodeport_addresses=("primary",)),
    replace(
        CONFIG, detect_local_mode=DetectLocalMode.NODE_CIDR, nodeport_addresses=("192.168.0.0/16", "fd00:192::/64")
    ),
    replace(CONFIG, detect_local_mode=DetectLocalMode.INTERFACE_NAME_PREFIX, pod_interface_name_prefix="veth"),
    replace(CONFIG, tree_threshold=2, endpoint_tree_threshold=2),
    replace(CONFIG, cluster_cidr=(), tree_threshold=0, endpoint_tree_threshold=1, large_cluster_endpoints=2),
)


class Example(NamedTuple):
    config: Config
    world: list[Document]  # all of it right
    visitors: list[Document]  # something is wrong with each

    def __repr__(self) -> str:
        """What a reader of a failure wants: the objects, and which of the configurations."""
        lines = [f"{each.kind.value}: {each.json!r}" for each in (*self.world, *self.visitors)]
        return "\n".join([f"CONFIGS[{CONFIGS.index(self.config)}], {len(self.world)} of them right:", *lines])


@st.composite
def examples(draw: st.DrawFn) -> Example:
    world = draw(good_worlds())
    visitors: list[Document] = []
    for _ in range(draw(st.integers(1, 4))):
        usual = [each for each in world if len(str(each.json)) < 10_000]
        of_world = bool(usual) and draw(mostly(True, False))
        model: Document = draw(st.sampled_from(usual)) if of_world else draw(good_documents())
        twin = draw(OBJECTS[model.kind]())
        visitors.append(Document(model.kind, draw(mutated(model.json, most=2, twin=twin)), good=False))
    return Example(draw(st.sampled_from(CONFIGS)), world, visitors)


@st.composite
def spoilt_objects(draw: st.DrawFn) -> bytes:
    return draw(spoilt(encode(draw(good_documents()).json)))
