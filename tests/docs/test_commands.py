"""Every command that a document shows is claimed by one way of executing it, and every claim by a command."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs import commands
from tests.docs.answers import differs
from tests.docs.claims import CLAIMS, Claim, Way, claims_on
from tests.docs.commands import Command, blocks, documents, is_command, read, shown

PAGE = """\
Run `./run`, or ` kproxy\nplan`; `kproxy` is a noun, ``(ip a; A=1 ss -a)`` is not. `a|b`

| `A_B=1 kubectl get x \\| grep 'y'` |

```console
left out
$ kproxy a  'b # c'   # it's why
out
  put
# cat > x <<EOF
$ body
EOF
$ one \\
>   two
```
```yaml
$ curl no
```
  ```console
  $ kproxy b
  ```
"""


def test_what_is_a_command_in_a_page() -> None:
    found = [(each.line, each.text, each.printed, each.is_root) for each in read("x.md", PAGE)]
    assert found == [
        (8, "kproxy a  'b # c'", "out\n  put", False),
        (11, "cat > x <<EOF\n$ body\nEOF", "", True),
        (14, "one \\\n  two", "", False),
        (21, "kproxy b", "", False),
        (1, "./run", "", False),
        (1, "kproxy plan", "", False),
        (2, "(ip a; A=1 ss -a)", "", False),
        (4, "A_B=1 kubectl get x | grep 'y'", "", False),
    ]


@pytest.mark.parametrize("words", ["kproxy", "iptables-save", "deploy/x", "--flag x", "kproxy.io/mode: x", "A=1"])
def test_what_is_none(words: str) -> None:
    assert not is_command(words)


def test_all_documents_are_read() -> None:
    found = {str(path.relative_to(commands.CHECKOUT)) for path in documents()}
    assert found >= {"README.md", "CONTRIBUTING.md", "deploy/README.md", "bench/README.md", "kproxy/explain/README.md"}
    assert "CHANGELOG.md" not in found


@pytest.mark.parametrize("path", documents(), ids=lambda path: str(path.relative_to(commands.CHECKOUT)))
def test_blocks_say_who_types(path: Path) -> None:
    languages = {block.language for block in blocks(path.read_text(encoding="utf-8"))}
    assert not languages & {"sh", "bash", "shell"}, "use ```console, with $ for anybody and # for root"


@pytest.mark.parametrize("command", shown(), ids=str)
def test_it_is_claimed_once(command: Command) -> None:
    assert [each.pattern for each in claims_on(command)][:1], f"{command}: nobody types it; see tests/docs/claims.py"
    assert len(claims_on(command)) == 1


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.pattern)
def test_a_claim_has_a_command(claim: Claim) -> None:
    assert any(map(claim.fits, shown())), "no document shows it any more"
    assert claim.why or (claim.way is not Way.NOT_HERE and "--help" not in claim.more), "say why it is not executed"


@pytest.mark.parametrize(
    ("told", "printed", "lacks"),
    [
        ("a\nb", "a\nb\n", ""),
        ("…\nb", "a\nb\n", ""),
        ("a\n…\nc", "a\nb\nc\n", ""),
        ("a", "a\nb", "a"),
        ("b", "a\nb", "b"),
        ("a\n…\na", "a\nb\n", "\na"),
        ("…\n2 x\n…", "y\n3 x\nz", ""),
    ],
)
def test_what_a_page_prints_is_there_in_its_order(told: str, printed: str, lacks: str) -> None:
    assert differs(told, printed, (r"\d+",)) == lacks
