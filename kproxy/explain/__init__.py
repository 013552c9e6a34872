"""Reads dumps of rules and says what they do with a packet; offline and without privileges."""
