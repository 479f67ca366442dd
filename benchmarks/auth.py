"""Measures what access tokens cost, with all of them verified before."""

import json
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import jwt
import psycopg
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm

from benchmarks.load import CUSTOMERS, post_orders, require_wrk
from benchmarks.orders_a_second import ratios
from benchmarks.report import Row, Section, spread
from benchmarks.shop_data import add_customers
from benchmarks.stage import Shop, Stage
from shop.platform.auth.settings import LONGEST_TOKEN_S, AuthSettings

TITLE = "Access tokens"
HOW = """\
`POST /orders` over 64 kept-alive connections, as above, against two API processes in turn: one that asks nobody for a token, and
one with `SHOP_AUTH__REQUIRED=true`, where each of 100 customers sends its own token (RS256) with its orders. All tokens have been
verified before; each is verified anew once a minute.
"""

_CALLERS = 100
_PLANT = "INSERT INTO signing_keys (kid, state, public_jwk, version) VALUES ('k', 'active', %s, 1)"
_PATIENT = {"SHOP_AUTH__REQUIRED": "true", "SHOP_AUTH__REQUESTS_A_SECOND": "1000000"}


def run(stage: Stage) -> Section:
    require_wrk()
    rates: dict[str, list[float]] = {"open": [], "asking": []}
    tokens = stage.directory / "tokens"
    with ExitStack() as held:
        shops: dict[str, Shop] = {}
        for kind in rates:
            shop = stage.shop()
            if kind == "asking":
                shop = replace(shop, env={**shop.env, **_PATIENT})
                _write_tokens(tokens, shop.orders)
            add_customers(shop.orders, CUSTOMERS)
            held.enter_context(
                stage.running(f"orders-api-{kind}", "shop.cli", "api", "orders", env=shop.env)
            )
            shops[kind] = shop
        sent = {"open": None, "asking": tokens}
        for kind, shop in shops.items():
            post_orders(
                shop.orders_url, connections=64, seconds=2, customers=_CALLERS, tokens=sent[kind]
            )
        # Short and many: a percent is less than what this machine does from one second to the next.
        for number in range(3 * stage.rounds):
            stage.say(f"tokens: round {number + 1} of {3 * stage.rounds}")
            kinds = list(rates) if number % 2 else list(reversed(rates))
            for kind in kinds:
                stage.settle()
                load = post_orders(
                    shops[kind].orders_url,
                    connections=64, seconds=stage.seconds(2),
                    customers=_CALLERS, tokens=sent[kind],
                )  # fmt: skip
                rates[kind].append(load.per_second)
    asking, free = (spread(rates[kind], "/s") for kind in ("asking", "open"))
    return Section(
        TITLE,
        HOW,
        [
            Row(
                "orders a second with tokens that were verified before, against without tokens",
                ratios(rates["asking"], rates["open"]), "×", at_least=0.97,
                measured=f"{asking} against {free}",
            )
        ],
    )  # fmt: skip


def _write_tokens(path: Path, orders: str) -> None:
    """A token for each customer, valid for as long as one may be; and their key, in the order service's copy."""
    private = rsa.generate_private_key(65537, 2048)
    with psycopg.connect(orders) as connection:
        connection.execute(
            _PLANT, [json.dumps(RSAAlgorithm.to_jwk(private.public_key(), as_dict=True))]
        )
    now, settings = int(time.time()), AuthSettings()
    claims = {
        "iss": settings.issuer,
        "aud": settings.audience,
        "iat": now,
        "exp": now + LONGEST_TOKEN_S,
        "client_id": "shop",
        "scope": "users:read users:write orders:read orders:write",
        "roles": ["customer"],
        "gen": 0,
    }
    header = {"typ": "at+jwt", "kid": "k"}
    tokens = [
        jwt.encode(
            {**claims, "sub": f"user:{n}", "jti": uuid4().hex, "sid": str(uuid4())},
            private, algorithm="RS256", headers=header,
        )
        for n in range(1, _CALLERS + 1)
    ]  # fmt: skip
    path.write_text("".join(f"{token}\n" for token in tokens))
