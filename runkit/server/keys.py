"""What handlers find in the application."""

from __future__ import annotations

from aiohttp import web

from runkit.server.head import Head

HEAD = web.AppKey("head", Head)
TOKEN = web.AppKey("token", str)
