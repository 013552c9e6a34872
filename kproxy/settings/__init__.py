"""What an operator may say, and what of it is in force: flags, a configuration file, and their defaults.

table.py      every setting once: flag, path in the file, field of Config, kind of value
kinds.py      the kinds of values: read from a flag or a file, shown again
document.py   the file's bytes → what stands at which path, and what nobody knows
resolve.py    flags and document → one Config, where each value comes from, what is to be said about them
v1alpha1.py   one Config → kube-proxy's document again
"""
