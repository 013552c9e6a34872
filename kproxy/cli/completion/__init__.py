"""What a shell completes behind ``kproxy``: a script for each shell, made from the vocabulary (../vocabulary.py).

The scripts are static: Python starts too slowly for every TAB, and nothing that is offered depends on the node. They
offer commands, flags, the fixed values of flags, and files where a file is wanted; where nobody can list what may stand
(an address, a time) they offer nothing rather than the files of the directory. Values are completed behind a space and
behind ``=``, as kube-proxy's flags are mostly written; behind a boolean flag only behind ``=``. Words without a command
are those of run. Which place a word has is found by the words before it, less the values of flags.

Rejected: shtab, which makes such scripts from argparse. Its bash part knows no ``--flag=value``, and none of its parts
knows flags without a command, words such as explain's, or lists with commas. argcomplete starts the program on every
TAB.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from kproxy.cli.completion.bash import render as for_bash
from kproxy.cli.completion.fish import render as for_fish
from kproxy.cli.completion.zsh import render as for_zsh
from kproxy.cli.vocabulary import Vocabulary

RENDER: Mapping[str, Callable[[Vocabulary], str]] = {"bash": for_bash, "zsh": for_zsh, "fish": for_fish}
