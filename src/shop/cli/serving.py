"""The commands that serve, `shop api` and `shop worker`, without the others."""

from shop.cli import api, worker
from shop.cli.running import app, main

__all__ = ["app", "main"]

for command in (api.api, worker.worker):
    app.command()(command)
