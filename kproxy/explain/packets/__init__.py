"""From a question about one packet to its answer."""
