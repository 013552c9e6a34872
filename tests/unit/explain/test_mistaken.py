"""What people give instead of a dump: each is named, and what to give instead."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile

import pytest

from kproxy.errors import UnreadableDump
from kproxy.explain.read.dump import dumps_of

DUMP = b"*nat\n:A - [0:0]\n-A A -j ACCEPT\nCOMMIT\n"


def zipped() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("dump", DUMP)
    return file.getvalue()


def tarred() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("dump"), None)
    return file.getvalue()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", r"^it is empty; run iptables-save as root"),
        (b" \n\r\n\t", r"^it is empty"),
        (b"# Warning: iptables-legacy tables present, use iptables-legacy-save to see them\n", "comments alone"),
        (gzip.compress(DUMP), r"^it is compressed \(gzip\); gunzip it"),
        (bz2.compress(DUMP), r"\(bzip2\); bunzip2 it"),
        (lzma.compress(DUMP), r"\(xz\); unxz it"),
        (b"\x28\xb5\x2f\xfd\x04", r"\(zstd\); unzstd it"),
        (zipped(), r"\(zip\); unzip it"),
        (tarred(), "it is a tar archive; unpack it"),
        (DUMP.decode().encode("utf-16"), "UTF-16, as PowerShell's > writes it; convert it: iconv"),
        (DUMP.decode().encode("utf-16-be"), "UTF-16"),
        (DUMP.decode().encode("utf-16-le"), "UTF-16"),
        (
            b"root@node:~# iptables-save\n" + DUMP,
            "^line 1: 'root@node:~# iptables-save' stands before any .*; remove what",
        ),
        (DUMP.replace(b"-A", b"  -A").replace(b"*", b"  *"), "^line 1: is indented, .*; take the blanks away: sed"),
        (DUMP + b"\0", "^line 5: holds a NUL byte"),
        (b"\x7fELF\x02\x01\x01\0\0\0", "^line 1: holds a NUL byte"),
    ],
)
def test_what_is_no_text_is_named(data: bytes, said: str) -> None:
    with pytest.raises(UnreadableDump, match=said):
        dumps_of(data)


NFT = """\
# Warning: table ip nat is managed by iptables-nft, do not touch!
table ip nat {
	chain OUTPUT {
		type nat hook output priority -100; policy accept;
		tcp dport 80 counter packets 0 bytes 0 dnat to 1.2.3.4:80
"""


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        (NFT, 2, "this is the output of nft list ruleset; .* nftables mode; .* of the same node .iptables-nft-save."),
        ("table inet filter {\n}\n", 1, "nft list ruleset"),
        ('{"nftables": [{"metainfo": {}}]}', 1, "nft list ruleset"),
        ('{\n    "apiVersion": "v1",\n    "items": [', 1, "objects of the cluster, as kubectl prints them; give"),
        (
            "apiVersion: v1\nitems:\n",
            1,
            "objects of the cluster, .*; give them with --objects FILE, and as the dump the output",
        ),
        ("NAME   TYPE   CLUSTER-IP   EXTERNAL-IP   PORT(S)\n", 1, "a table that kubectl printed"),
        (
            "NAMESPACE  NAME  READY  STATUS\n",
            1,
            "a table that kubectl printed, .*; give its output with -o json to --objects",
        ),
        ("\n<!DOCTYPE html>\n<html>", 2, "a web page"),
        (
            "Chain INPUT (policy ACCEPT)\ntarget     prot opt source               destination",
            1,
            "the output of iptables -L, which leaves half of every rule out; give the output of iptables-save",
        ),
        ("Chain KUBE-SERVICES (2 references)\n", 1, "iptables -L"),
        ("-P INPUT ACCEPT\n-N KUBE-SERVICES\n", 1, r"without a \*table line, as iptables -S or grep prints"),
        ("-A KUBE-SERVICES -j ACCEPT\n", 1, "as iptables -S or grep"),
        ("[5:60] -A KUBE-SERVICES -j ACCEPT\n", 1, "as iptables -S or grep"),
        ("udp      17 27 src=10.0.0.1 dst=10.96.0.10 sport=1 dport=53", 1, "this is the output of conntrack -L"),
        ("IP Virtual Server version 1.2.1 (size=4096)\n", 1, "ipvsadm: the node's kube-proxy runs in its ipvs mode"),
        ("sudo: a password is required\n", 1, r"'sudo: a password is required' stands before any \*table line"),
        ("**bold**\n", 1, r"stands before any \*table line"),
    ],
)
def test_another_programs_output_is_named(text: str, line: int, said: str) -> None:
    with pytest.raises(UnreadableDump, match=said) as caught:
        dumps_of(text.encode())
    assert caught.value.line == line


def test_a_dump_is_never_taken_for_something_else() -> None:
    (dump,) = dumps_of(b"\xef\xbb\xbf# table ip nat {\n\n" + DUMP)
    assert dump.facts.rules == 1
