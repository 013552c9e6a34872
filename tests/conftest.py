"""What all tests share."""

from hypothesis import settings

# A deadline would be an assertion about the machine's load. Everybody tries the same examples, so that what passed here
# passes there; `./run test --hypothesis-profile explore` looks for new ones, and says how to repeat those that fail.
settings.register_profile("kproxy", deadline=None, derandomize=True, print_blob=True)
settings.register_profile("explore", deadline=None, derandomize=False, print_blob=True)
settings.load_profile("kproxy")
