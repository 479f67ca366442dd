"""Measures what access tokens cost, with all of them verified before."""

import json
import subprocess
import sys
import time
from pathlib import Path
from uuid import uuid4

import jwt
import psycopg
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm

from benchmarks.in_turn import measured
from benchmarks.load import Load, post_orders, require_wrk
from benchmarks.report import Row, Section, spread
from benchmarks.stage import PROJECT, Shop, Stage
from shop.platform.auth.settings import LONGEST_TOKEN_S, AuthSettings

TITLE = "Access tokens"
HOW = """\
`POST /orders` over 64 kept-alive connections to one API process with `SHOP_AUTH__REQUIRED=true`, in turn, as interceptors are measured: as it is,
where each of 100 customers sends its own token (RS256) with its orders, and with the code taken out that looks at tokens, where
none is sent. All tokens have been verified before; each is verified anew once a minute. A request with a token is longer by some 800 bytes, which the client and
the service have to write and to read. The last row is what the gate itself costs: CPU time of a route alone
(`benchmarks/remembered_tokens.py`), against that of an order.
"""

CALLERS = 100
KID = "k"
_PLANT = "INSERT INTO signing_keys (kid, state, public_jwk, version) VALUES (%s, 'active', %s, 1)"
_PATIENT = {"SHOP_AUTH__REQUIRED": "true", "SHOP_AUTH__REQUESTS_A_SECOND": "1000000"}


def run(stage: Stage) -> Section:
    require_wrk()
    stage.say("tokens: a route alone")
    alone = _alone()
    added = alone["asking"] - alone["open"]
    tokens = stage.directory / "tokens"

    def send(shop: Shop, seconds: float) -> Load:
        return post_orders(
            shop.orders_url, connections=64, seconds=seconds, customers=CALLERS, tokens=tokens
        )

    both = measured(
        stage, "guard", _PATIENT, send=send, prepare=lambda shop: _write_tokens(tokens, shop.orders)
    )
    cost_free = spread(both.cpu_without, "µs")
    return Section(
        TITLE,
        HOW,
        [
            Row(
                "orders a second with tokens that were verified before, against without tokens",
                both.rate, "×", at_least=0.97,
                measured=f"{spread(both.rate_with, '/s')} against {spread(both.rate_without, '/s')}",
            ),
            Row(
                "CPU time of an order with such a token, against one without",
                both.cpu, "×", less_is_better=True,
                measured=f"{spread(both.cpu_with, 'µs')} against {cost_free}",
            ),
            Row(
                "CPU time that the gate adds to an order, against the order's",
                [added / cost for cost in both.cpu_without], "×", at_least=0.03, less_is_better=True,
                measured=f"{added:.2f} µs against {cost_free}",
            ),
        ],
    )  # fmt: skip


def _alone() -> dict[str, float]:
    """What `remembered_tokens.py` says."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.remembered_tokens"],
        cwd=PROJECT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"the route alone failed:\n{done.stderr}")
    told: dict[str, float] = json.loads(done.stdout)
    return told


def _write_tokens(path: Path, orders: str) -> None:
    """A token for each customer; and their key, in the order service's copy."""
    private = rsa.generate_private_key(65537, 2048)
    public = json.dumps(RSAAlgorithm.to_jwk(private.public_key(), as_dict=True))
    with psycopg.connect(orders) as connection:
        connection.execute(_PLANT, [KID, public])
    path.write_text("".join(f"{token}\n" for token in signed_tokens(private)))


def signed_tokens(private: rsa.RSAPrivateKey) -> list[str]:
    """One for each customer, valid for as long as one may be."""
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
    header = {"typ": "at+jwt", "kid": KID}
    return [
        jwt.encode(
            {**claims, "sub": f"user:{n}", "jti": uuid4().hex, "sid": str(uuid4())},
            private, algorithm="RS256", headers=header,
        )
        for n in range(1, CALLERS + 1)
    ]  # fmt: skip
