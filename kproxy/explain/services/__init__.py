"""From the rules of a dump to its Services."""
