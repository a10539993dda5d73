"""The native HTTP API, version 1, over aiohttp. `app.build` makes it; `routes.TABLE` is every route with its role."""

from __future__ import annotations
