"""The user's side: clusters, functions, modules, calls, and the sync of the user's code.

It may import transport, launch, model and wire; nothing below imports it.
"""
