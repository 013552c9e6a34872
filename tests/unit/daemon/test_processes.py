"""Who counts as a service proxy, read from a made-up /proc."""

from __future__ import annotations

from pathlib import Path

import pytest

from kproxy.daemon.processes import Twin, find_proxies, find_twins

LINKS = {"exe": "python", "root": "host", "ns/pid": "pid:[1]", "ns/net": "net:[1]", "cwd": "/srv"}


def test_a_proxy_that_runs_in_this_network_namespace_is_found(tmp_path: Path) -> None:
    processes = {
        "self": ("net:[1]", "kproxy cleanup"),
        "10": ("net:[1]", "kproxy cleanup"),
        "11": ("net:[1]", "/usr/bin/python3 /usr/bin/kproxy run --v=2"),
        "12": ("net:[2]", "kproxy run"),
        "13": ("net:[1]", "/usr/local/bin/kube-proxy --config=/c"),
        "14": ("net:[1]", "python -m kproxy --v=2"),
        "15": ("net:[1]", "kube-proxy --cleanup"),
        "16": ("net:[1]", "tail -f kube-proxy"),
        "17": ("net:[1]", ""),
        "18": ("", "kproxy run"),  # somebody else's
        "19": ("net:[1]", "/usr/bin/python3 /usr/local/bin/kube-proxy --config=/c"),  # kproxy by another name
    }
    for name, (namespace, line) in processes.items():
        folder = tmp_path / name / "ns"
        folder.mkdir(parents=True)
        (tmp_path / name / "cmdline").write_text("".join(f"{word}\0" for word in line.split()), encoding="utf-8")
        if namespace:
            (folder / "net").symlink_to(namespace)
    assert find_proxies(tmp_path) == [(11, "kproxy"), (13, "kube-proxy"), (14, "kproxy"), (19, "kube-proxy")]
    assert find_proxies(tmp_path / "none") == []


def process(proc: Path, name: str, line: str, users: str = "0 0 0 0", **links: str) -> None:
    (proc / name / "ns").mkdir(parents=True)
    (proc / name / "cmdline").write_text(line.replace(" ", "\0") + "\0", encoding="utf-8")
    (proc / name / "status").write_text(f"Name:\tUid:\nUid:\t{users}\nGid:\t0 0 0 0\n", encoding="utf-8")
    for link, target in (LINKS | links).items():
        if link in {"exe", "root"}:
            (proc / target).mkdir(exist_ok=True)
            (proc / name / link).symlink_to(proc / target)
        else:
            (proc / name / link).symlink_to(target)


@pytest.mark.parametrize(
    "other",
    [
        {"users": "1000 1000 1000 1000"},
        {"users": "1000 0 0 0"},  # setuid: its words are its caller's
        {"exe": "su"},
        {"root": "container"},
        {"ns/pid": "pid:[2]"},
    ],
)
def test_only_the_words_of_what_is_started_as_we_are_are_believed(tmp_path: Path, other: dict[str, str]) -> None:
    process(tmp_path, "self", "python3 kproxy check")
    process(tmp_path, "11", "python3 /usr/bin/kproxy run --kubeconfig=/etc/k --v=2")
    process(tmp_path, "12", "kproxy run --kubeconfig=/tmp/evil", **other)
    assert [number for number, _ in find_proxies(tmp_path)] == [11, 12]
    assert find_twins(tmp_path) == [Twin(11, ("run", "--kubeconfig=/etc/k", "--v=2"), "/srv")]
