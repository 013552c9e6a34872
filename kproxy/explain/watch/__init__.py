"""From events of packets that pass right now to what happened to each (``kproxy trace``)."""
