"""A server behind https is trusted by its certificate alone; plain http asks for none."""

from __future__ import annotations

import ssl

from bentos.http_client import trusted


def test_https_is_verified_by_one_list_of_a_process_and_http_reads_none() -> None:
    context = trusted("https://mlflow.example")
    assert isinstance(context, ssl.SSLContext)
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert context.cert_store_stats()["x509_ca"] > 10
    assert trusted("https://other.example") is context
    assert trusted("HTTPS://other.example") is context, "httpx takes it for the same"
    assert trusted("http://mlflow.example") is False
