"""A relay of our own: sockets that listen, and connections that are passed on to endpoints, in this process.

It serves node ports on loopback, where rules cannot without route_localnet. ``compile`` turns a plan into rules (which
socket serves which endpoints), ``balance`` chooses among them, ``tcp`` and ``udp`` decide what happens to a flow, and
``apply`` with ``streams`` and ``datagrams`` performs it. For TCP that is a short way for speed's sake: ``reactor`` says
which sockets are ready, ``approach`` finds an endpoint, and ``flow`` does what ``tcp`` specifies, bulk by ``pipes``.
"""
