"""The others: Ray's own actor call and start, a raw echo through the same SSH session, rsync, Runhouse 0.0.42.

A peer that cannot be had on this machine raises `Absent`; the table then says so. `jobs` are scripts that run in a
peer's own venv.
"""
