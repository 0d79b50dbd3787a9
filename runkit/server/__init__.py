"""The head process: HTTP and WebSocket for clients, the directory of keys, the servlets, and the Ray under them.

It never unpickles a user's bytes.
"""
