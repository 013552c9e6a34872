"""Performs the steps of a scenario in their order.

After each step that changes what the proxy should do, the sentinel is waited for, unless the step says ``nowait``. A
step of another proxy mode is passed over. What cannot be done here raises Skipped with the reason.
"""

from __future__ import annotations

from typing import Any

from tests.conformance.cluster_steps import ClusterSteps
from tests.conformance.modes import passed_over
from tests.conformance.node_steps import NodeSteps
from tests.conformance.packet_steps import PacketSteps
from tests.conformance.page_steps import PageSteps
from tests.conformance.scene import Action, Scene, Skipped

Json = dict[str, Any]
_ABOUT = {"kernel_only", "modes", "note", "nowait", "rows"}  # keys of a step that are no action
_DEADLINE = 60.0  # seconds until the proxy shows a change
_LOAD_DEADLINE = 180.0  # seconds until a thousand Services are there


async def perform(scene: Scene) -> None:
    """Every step of the scenario; raises Skipped, or what went wrong."""
    parts = (ClusterSteps(scene), NodeSteps(scene), PacketSteps(scene), PageSteps(scene))
    actions: dict[str, Action] = {}
    for part in parts:
        actions |= part.actions()
    try:
        for step in scene.scenario["steps"]:
            if not passed_over(step, scene.proxy.mode):
                await _step(scene, actions, step)
    finally:
        for part in parts:
            await part.close()


async def _step(scene: Scene, actions: dict[str, Action], step: Json) -> None:
    changed = False
    scene.begin()
    for name, value in step.items():
        if name in _ABOUT:
            continue
        if name not in actions:
            raise Skipped(f"unknown step {name}")
        asked = _of_mode(value, scene.proxy.mode)
        if asked is not None:
            changed |= await actions[name](asked)
    if changed and not step.get("nowait"):
        await scene.cluster.converge(scene.prober, _LOAD_DEADLINE if "bulk" in step else _DEADLINE)


def _of_mode(value: Any, mode: str) -> Any:
    """What of an action is of this mode; None where all of it is not."""
    if isinstance(value, list):
        return [each for each in value if not isinstance(each, dict) or not passed_over(each, mode)]
    return None if isinstance(value, dict) and passed_over(value, mode) else value
