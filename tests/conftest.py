"""What all tests share."""

from hypothesis import settings

# A deadline would be an assertion about the machine's load. CI is told which example failed, to be run again as such.
settings.register_profile("kproxy", deadline=None, print_blob=True)
settings.load_profile("kproxy")
