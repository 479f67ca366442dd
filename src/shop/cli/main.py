"""The command line: `shop up` runs everything; each of the other commands runs one part."""

from shop.cli import (
    accounts,
    api,
    audit,
    cdc,
    certificate,
    clients,
    demo,
    events,
    keys,
    log,
    login,
    migrate,
    parked,
    rebuild,
    restore,
    roles,
    routes,
    settings,
    top,
    up,
    worker,
)
from shop.cli.identity import issuer
from shop.cli.running import app, main

__all__ = ["app", "main"]

for command in (
    up.up,
    api.api,
    worker.worker,
    migrate.migrate,
    events.events,
    top.top,
    demo.demo,
    audit.audit,
    certificate.certificate,
    settings.settings,
    roles.roles,
    routes.routes,
    rebuild.rebuild,
    login.login,
    login.token,
    login.logout,
    restore.restore,
):
    app.command()(command)
app.add_typer(cdc.app, name="cdc", no_args_is_help=True)
app.add_typer(log.app, name="log", no_args_is_help=True)
app.add_typer(parked.app, name="parked", no_args_is_help=True)
# The accounts are those of the service that issues tokens, and are called as it is.
named = {"keys": keys.app, issuer() or "accounts": accounts.app, "clients": clients.app}
for name, group in named.items():
    app.add_typer(group, name=name, no_args_is_help=True)
