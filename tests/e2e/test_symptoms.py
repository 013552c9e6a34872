"""deploy/TROUBLESHOOTING.md: each symptom is brought about, and its command is typed and prints what the page shows.

The page is the expectation, situations.py the way there: what the page leaves out is `…`, and what differs from run to
run counts for nothing (``_VARIES``).
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.docs.answers import differs
from tests.e2e.patients import CHECKOUT, WIDTH, Ward, ward
from tests.e2e.situations import SITUATIONS, During, Situation, populate

pytestmark = pytest.mark.root
PAGE = CHECKOUT / "deploy" / "TROUBLESHOOTING.md"
_VARIES = (
    r"\blines? \d+(?:(?:, | and )\d+)*",
    r"\d+ (?:s|min|h)\b",
    r"process \d+",
    r"pid \d+",
    r"since .*? UTC",
    r"\d+ packets?\b",
    r"(?<=[:/])\d{5}\b(?!\.)",  # ports that the kernel or a workload chose
)


def blocks() -> list[tuple[str, str, str]]:
    """(section, command, what it prints) of the page."""
    found = []
    for section, body in re.findall(r"(?ms)^## (.*?)$(.*?)(?=^## |\Z)", PAGE.read_text(encoding="utf-8")):
        for block in re.findall(r"(?ms)^```console\n(.*?)^```$", body):
            parts = re.split(r"(?m)^[$#] (.*)\n", block)[1:]
            found += [(section, *pair) for pair in zip(parts[::2], parts[1::2], strict=True)]
    return found


def on_one_line(text: str) -> str:
    """Lines may break elsewhere."""
    return re.sub(" ?… ?", "…", " ".join(text.split()))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def patients(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Ward]:
    if os.geteuid() != 0:
        pytest.skip("needs root: makes network namespaces")
    async with ward(tmp_path_factory.mktemp("ward"), populate) as made:
        yield made


def test_the_page_shows_what_is_typed_here() -> None:
    typed = [(each.section, command) for each in SITUATIONS for command in each.commands]
    assert sorted((section, command) for section, command, _ in blocks()) == sorted(typed)


def test_each_symptom_of_the_table_has_a_section() -> None:
    text = PAGE.read_text(encoding="utf-8")
    linked = set(re.findall(r"\]\(#([a-z0-9-]+)\)", text))
    headings = {
        re.sub(r"[^a-z0-9 -]", "", each.lower()).replace(" ", "-") for each in re.findall(r"(?m)^## (.*)$", text)
    }
    assert linked <= headings
    assert {str(each) for each in headings} - linked <= {"the-first-three-commands", "not-brought-about"}


def test_alerts_words_of_the_log_and_events_exist() -> None:
    """Metrics, settings and links are looked up for all documents by tests/docs."""
    spans = set(re.findall(r"`([^`\n]+)`", re.sub(r"(?ms)^```.*?^```$", "", PAGE.read_text(encoding="utf-8"))))
    alerts = (CHECKOUT / "deploy" / "monitoring" / "alerts.yaml").read_text(encoding="utf-8")
    named = {each for each in spans if each.startswith("Kproxy")}
    assert len(named) > 5
    assert named <= set(re.findall(r"alert: (\w+)", alerts))
    source = "".join(path.read_text(encoding="utf-8") for path in sorted((CHECKOUT / "kproxy").rglob("*.py")))
    assert "outside of the pod range" in spans & set(re.findall(r"outside of the pod range", source))
    for words in ("Another proxy writes the same chains", "Deleted stale flows", "Stale flows not cleaned",
                  "Quarantined", "InvalidObject", "AddressClash"):  # fmt: skip
        assert words in spans
        assert f'"{words}' in source


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("patient", SITUATIONS, ids=str)
async def test_it_prints_what_the_page_shows(patient: Situation, patients: Ward) -> None:
    shown = {(section, command): printed for section, command, printed in blocks()}
    story = patient.story(patients)
    during = await anext(story)
    try:
        for command in patient.commands:
            printed = await type_(patients, command, patient.host, during)
            expected = shown.get((patient.section, command), "(the page does not have it)")
            lacks = differs(on_one_line(expected), on_one_line(printed), _VARIES)
            assert not lacks, f"{command}\n{printed}and not\n{lacks}"
    finally:
        async for _ in story:
            pass


async def type_(patients: Ward, command: str, host: str, during: During | None) -> str:
    if command.startswith("kproxy explain") and "|" not in command:
        command += f" --width {WIDTH}"
    typing = asyncio.create_task(patients.type(command, host))
    if during:
        await patients.until(lambda: is_tracing(patients, host))
        while not typing.done():  # the first may come before the trace listens
            await during()
    return await typing


async def is_tracing(patients: Ward, host: str) -> bool:
    return "kproxy-trace" in await patients.type("nft list tables", host)
