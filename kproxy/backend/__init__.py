"""A plan in some dialect of the kernel; every proxy mode is a folder with the same file names."""
