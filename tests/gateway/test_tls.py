"""TLS as Mozilla's intermediate profile has it, for our name only."""

import os
import shutil
import signal
import socket
import ssl
import stat
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.support.gateway import Gateway, in_front_of_two
from tests.support.upstream import Received, respond
from tests.support.waiting import until

ASK = b"GET /orders HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


def only(stage: Gateway, version: ssl.TLSVersion, ciphers: str = "ALL:@SECLEVEL=0") -> ssl.SSLContext:  # fmt: skip
    context = stage.trust()
    if version < ssl.TLSVersion.TLSv1_2:
        context.minimum_version = version
    context.maximum_version = version
    context.minimum_version = version
    context.set_ciphers(ciphers)
    return context


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_these_versions_are_spoken(stage: Gateway, version: ssl.TLSVersion) -> None:
    assert stage.exchange(ASK, context=only(stage, version)).startswith(b"HTTP/1.1 200 OK")


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
@pytest.mark.parametrize("version", ["TLSv1", "TLSv1_1"])
def test_these_are_not(stage: Gateway, version: str) -> None:
    with pytest.raises(ssl.SSLError, match="PROTOCOL_VERSION"):
        stage.connect(only(stage, ssl.TLSVersion[version]))


@pytest.mark.parametrize(
    "ciphers", ["AES256-SHA", "AES128-GCM-SHA256", "ECDHE-ECDSA-AES128-SHA", "ECDHE-ECDSA-AES256-SHA384", "NULL"]
)  # fmt: skip
def test_ciphers_without_forward_secrecy_or_authentication_of_data_are_refused(
    stage: Gateway, ciphers: str
) -> None:
    with pytest.raises(ssl.SSLError, match="HANDSHAKE_FAILURE"):
        stage.connect(only(stage, ssl.TLSVersion.TLSv1_2, f"{ciphers}:@SECLEVEL=0"))


@pytest.mark.parametrize(
    "ciphers",
    [
        "ECDHE-ECDSA-AES128-GCM-SHA256",
        "ECDHE-ECDSA-AES256-GCM-SHA384",
        "ECDHE-ECDSA-CHACHA20-POLY1305",
    ],
)
def test_a_client_of_the_intermediate_profile_gets_the_cipher_it_has(
    stage: Gateway, ciphers: str
) -> None:
    with stage.connect(only(stage, ssl.TLSVersion.TLSv1_2, ciphers)) as connection:
        found = connection.cipher()
    assert found is not None and found[0] == ciphers


def test_a_session_is_resumed_without_a_ticket(stage: Gateway) -> None:
    context = only(stage, ssl.TLSVersion.TLSv1_2)
    with stage.connect(context) as connection:
        session = connection.session
    assert session is not None and session.id and not session.has_ticket
    plain = socket.create_connection(("127.0.0.1", stage.port), 10)
    with context.wrap_socket(plain, server_hostname="localhost", session=session) as connection:
        assert connection.session_reused


@pytest.mark.parametrize("name", [None, "evil.example", "127.0.0.1"])
def test_a_handshake_for_another_name_or_none_is_refused(stage: Gateway, name: str | None) -> None:  # fmt: skip
    context = stage.trust()
    context.check_hostname = False
    with pytest.raises(ssl.SSLError, match="UNRECOGNIZED_NAME"):
        stage.connect(context, name=name)


def test_a_request_for_another_host_than_the_handshake_was_for_is_misdirected(stage: Gateway) -> None:  # fmt: skip
    answer = stage.exchange(b"GET /orders HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n")  # fmt: skip
    assert answer.startswith(b"HTTP/1.1 421 ")
    assert b"application/problem+json" in answer
    with stage.client(http2=True) as client:
        assert client.get("/orders", headers={"Host": "evil.example"}).status_code == 421
    assert not stage.orders.received


def test_http_2_is_spoken_to_clients_that_offer_it(stage: Gateway) -> None:
    context = stage.trust()
    context.set_alpn_protocols(["h2", "http/1.1"])
    with stage.connect(context) as connection:
        assert connection.selected_alpn_protocol() == "h2"


def test_a_client_that_does_not_know_the_authority_refuses(stage: Gateway) -> None:
    with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        httpx.get(f"https://localhost:{stage.port}/orders")


def test_openssl_finds_the_certificate_right(stage: Gateway) -> None:
    if not shutil.which("openssl"):
        pytest.skip("left out, since there is no openssl here")
    authority, chain = str(stage.certificate.authority), str(stage.certificate.chain)
    words = ["openssl", "verify", "-CAfile", authority, "-verify_hostname", "localhost", chain]
    done = subprocess.run(words, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert stat.S_IMODE(stage.certificate.key.stat().st_mode) == 0o600


def test_a_renewed_certificate_is_taken_at_a_sighup_and_what_is_under_way_is_answered(
    tmp_path: Path,
) -> None:
    go_on = threading.Event()

    def wait(connection: socket.socket, received: Received) -> None:
        if received.target == "/orders/slow":
            go_on.wait(60)
        respond(connection)

    with in_front_of_two(tmp_path) as stage, stage.client() as client, ThreadPoolExecutor() as pool:
        stage.orders.respond = wait
        under_way = pool.submit(client.post, "/orders/slow")
        until(lambda: stage.orders.received)
        with stage.connect() as connection:
            before = connection.getpeercert(binary_form=True)
        stage.certificate.make()
        assert stage.nginx.pid is not None
        os.kill(stage.nginx.pid, signal.SIGHUP)
        insecure = ssl.create_default_context()
        insecure.check_hostname = False
        insecure.verify_mode = ssl.CERT_NONE

        def shown() -> bytes | None:
            with stage.connect(insecure) as connection:
                return connection.getpeercert(binary_form=True)

        until(lambda: shown() != before, "the new certificate is shown")
        go_on.set()
        assert under_way.result().status_code == 200
