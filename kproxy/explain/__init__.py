"""Reads dumps of rules and says what they do with packets; offline and without privileges.

read/      bytes → dumps, objects, flows; the live host
services/  a dump → its Services
health/    what looks like trouble
views/     everything about one thing; what changed between two dumps
packets/   a question about one packet → its answer
watch/     events of live packets → what happened to each (``kproxy trace``)
show/      answers → text, JSON, a page; redacted
answer.py  the nouns of all answers
"""
