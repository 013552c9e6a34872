"""What a relay can hold, by its sizes. That a client who never reads cannot make it hold more is test_streams'."""

from __future__ import annotations

from kproxy.backend.userspace.bounds import Bounds
from kproxy.config import Config

CONFIG = Config()
DEFAULT = Bounds(CONFIG.relay_buffer, CONFIG.relay_pipe, CONFIG.relay_connections, CONFIG.relay_pipes)


def test_a_stalled_reader_costs_one_buffer_or_one_pipe() -> None:
    assert (DEFAULT.of_stall, DEFAULT.of_flow) == (1 << 20, 2 << 20)
    assert DEFAULT._replace(pipe=4096).of_stall == 65536
    assert DEFAULT._replace(pipes=0).of_stall == 65536


def test_all_flows_cost_their_buffers_and_what_pipes_there_are() -> None:
    assert DEFAULT.of_all == (8 << 30) + (112 << 20)  # as the module says
    assert Bounds(buffer=10, pipe=100, flows=2, pipes=50).of_all == 400  # more pipes than directions
    assert Bounds(buffer=10, pipe=100, flows=2, pipes=1).of_all == 140
