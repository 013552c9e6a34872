"""kproxy: a Kubernetes service proxy for one node.

The way of a datum through the program is the order of its folders::

    API server ──► source/ ──► model/ ──► plan/ ──► backend/ ──► kernel/ ──► packets
    or YAML        bytes to    what the   what      the plan     iptables,
                   changes     cluster    this      in some      conntrack,
                               says       node      dialect      sysctl, addresses
                                          must do
                   ╰────────────── daemon/ wires, times and answers questions ─────────────╯

Only ``source/`` and ``kernel/`` touch the world; what lies between them is pure.
"""

__version__ = "0.1.0"
