"""kproxy: a Kubernetes service proxy for one node.

The way of one Service through the program is the order of its folders::

    API server ──► source/ ──► model/ ──► plan/ ──► backend/ ──► kernel/ ──► packets
    or YAML        bytes to    what the   what      the plan     iptables,
                   changes     cluster    this      as rules     conntrack,
                               says       node                   sysctl, addresses
                                          must do
                   ╰────────────── daemon/ wires, times and answers questions ─────────────╯

Begin with ``daemon/family.py``: its ``sync`` is one round of all this. ``source/`` and ``kernel/`` touch the world, and
in each backend the file ``apply.py``; everything between them is pure. Beside the way stand ``cli/`` (the commands),
``explain/`` (reads dumps), ``sandbox/`` (a small cluster on one machine), ``config.py`` (every default), ``settings/``
(flags and files become a Config), ``gates.py`` (feature gates) and ``errors.py`` (everything that is raised).
"""

__version__ = "0.1.0"
