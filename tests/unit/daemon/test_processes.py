"""Who counts as a service proxy, read from a made-up /proc."""

from __future__ import annotations

from pathlib import Path

from kproxy.daemon.processes import find_proxies


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
