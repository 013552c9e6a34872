"""Watches of servers that are not in good order, from chunks of bytes to rules.

Objects of which something is wrong are looked at one by one in test_objects.py. Here is what a sequence must keep:
after all that happened the store holds what the server holds, and each round is what a first round would be.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing, suppress
from typing import Any, cast

from hypothesis import given, settings

from kproxy.errors import KproxyError
from kproxy.model.change import Listed, Put, Rejected, Removed
from kproxy.model.enums import IPFamily, Kind
from kproxy.source.client import Client
from kproxy.source.convert import Converter, NotOurs, Usable
from kproxy.source.watch import resources, watch
from tests.fuzz.journey import CONFIG, Journey, check_sentence
from tests.fuzz.stories import Over, Story, StoryTeller, stories


@settings(max_examples=100, derandomize=True)
@given(stories())
def test_the_store_ends_up_with_what_the_server_holds(story: Story) -> None:
    teller, journey = StoryTeller(story), Journey(IPFamily.IPV4)
    said = asyncio.run(_follow(teller, journey))
    for problem in said:
        assert str(problem).isprintable(), ascii(str(problem))
    converter = Converter()
    for key, data in teller.objects.items():
        match converter.convert(story.kind, data):
            case Usable() as usable:
                assert journey.cluster.get(story.kind, key) == usable.object
            case NotOurs():
                assert journey.cluster.get(story.kind, key) is None
    held = journey.cluster._objects[story.kind]
    assert held.keys() <= teller.objects.keys()


async def _follow(teller: StoryTeller, journey: Journey) -> list[KproxyError]:
    said: list[KproxyError] = []

    def report(_kind: Kind, problem: KproxyError | None) -> None:
        said.extend([problem] if problem else [])

    async def sleep(_seconds: float) -> None:
        await asyncio.sleep(0)

    (selection,) = (each for each in resources(CONFIG) if each.kind is teller.story.kind)
    with suppress(Over):
        async with aclosing(watch(cast("Client", teller), selection, CONFIG, sleep=sleep, report=report)) as changes:
            async for change in changes:
                _check_change(change)
                journey.travel([change])
    return said


def _check_change(change: Any) -> None:
    match change:
        case Listed(rejected=rejected, warnings=warnings):
            for problem in (*(each.problem for each in rejected), *warnings):
                check_sentence(problem)
        case Rejected(rejection=rejection):
            check_sentence(rejection.problem)
        case Put(warnings=warnings) | Removed(warnings=warnings):
            for problem in warnings:
                check_sentence(problem)
