"""What both sides must agree on: frames, serialisation, tracebacks, names and places.

Standard library and cloudpickle only, Python 3.9 and later.
"""
