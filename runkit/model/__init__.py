"""The values people name things with: packages, envs, resources, and their digests.

The only I/O here is reading what a value names, to digest it.
"""
