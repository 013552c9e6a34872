"""The Dockerfile: the same for every architecture, and of nothing but what decides whether an image is made anew."""

from __future__ import annotations

import re

from deploy import image
from tests.release.conftest import ROOT

_TEXT = (ROOT / "Dockerfile").read_text(encoding="utf-8")
_COMMANDS = "\n".join(line for line in _TEXT.splitlines() if not line.startswith("#"))


def test_it_names_no_architecture() -> None:
    assert re.findall(r"(?i)amd64|x86[-_]64|arm64|aarch64|--platform", _COMMANDS) == []


def test_secrets_are_not_demanded() -> None:
    """BuildKit and buildah go on without a secret that nobody gives, unless it is required."""
    secrets = re.findall(r"--mount=(type=secret\S+)", _COMMANDS)
    assert secrets == ["type=secret,id=ca", "type=secret,id=pip"]
    assert _COMMANDS.count("if [ -s /run/secrets/") == len(secrets)


def test_what_is_sent_to_the_builder_is_what_the_digest_covers() -> None:
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    sent = {line.removeprefix("!") for line in ignored if line.startswith("!")}
    assert ignored[0] == "*"
    assert sent | {"Dockerfile", ".dockerignore"} == set(image.INPUTS)
    copied = {
        name for names in re.findall(r"^COPY (?!--from)(.+) \S+$", _COMMANDS, re.MULTILINE) for name in names.split()
    }
    assert copied == sent


def test_the_base_is_the_one_that_is_made_where_none_can_be_pulled() -> None:
    (base,) = re.findall(r"^ARG DEBIAN=(\S+)$", _COMMANDS, re.MULTILINE)
    assert image.BASE.endswith(f"/{base}")
    assert f'org.opencontainers.image.base.name="{image.BASE}"' in _COMMANDS
    assert image.SUITE in base
