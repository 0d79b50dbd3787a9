"""The process that runs user code, in the env's own interpreter: calls, output, the object store.

Standard library and cloudpickle only, Python 3.9 and later; nothing here may import Ray, the client or the server.
"""
