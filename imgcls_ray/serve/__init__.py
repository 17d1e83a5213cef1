"""Models over HTTP on Ray Serve. Only ``deployment`` and ``metrics`` know Ray; the rest is an ASGI application."""
