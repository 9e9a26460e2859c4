"""TLS, a certificate that is renewed, and a limit on connections."""

import json
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import time

import server


def main():
    if shutil.which("openssl") is None:
        raise server.Skipped("no openssl to make a certificate")
    with tempfile.TemporaryDirectory() as folder:
        certificate, key = f"{folder}/cert.pem", f"{folder}/key.pem"
        make_certificate(certificate, key, "first")
        flags = ["--tls-cert", certificate, "--tls-key", key]
        running = server.Server(*flags, wait=False)
        try:
            assert running.base.startswith("https://"), running.base
            subject, answer = get(running, certificate)
            assert subject == "first" and answer == {"status": "ok"}, (subject, answer)
            make_certificate(certificate, key, "second")
            running.process.send_signal(signal.SIGHUP)
            end = time.monotonic() + 10
            while get(running, certificate)[0] != "second":
                assert time.monotonic() < end, "the certificate is not read again"
                time.sleep(0.05)
            with socket.create_connection((running.host, running.port)) as plain:
                plain.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
                assert b"200" not in plain.recv(1000)
        finally:
            assert running.stop() == 0
    with server.running("--max-connections", "3") as running:
        held = [socket.create_connection((running.host, running.port)) for _ in range(3)]
        time.sleep(0.2)
        assert running.status("/health") == 503
        [one.close() for one in held]
        time.sleep(0.2)
        assert running.status("/health") == 200
    return "TLS, reload, limit"


def make_certificate(certificate: str, key: str, name: str) -> None:
    what = ["-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    whose = ["-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1"]
    command = ["openssl", "req", *what, *whose, "-keyout", key, "-out", certificate]
    subprocess.run(command, check=True, capture_output=True)


def get(running, certificate: str):
    """Name in the certificate of the connection, and the answer of /health."""
    try:
        context = ssl.create_default_context(cafile=certificate)
        with socket.create_connection((running.host, running.port)) as plain:
            with context.wrap_socket(plain, server_hostname="127.0.0.1") as stream:
                stream.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                answer = b""
                while part := stream.recv(65536):
                    answer += part
                subject = dict(pair[0] for pair in stream.getpeercert()["subject"])["commonName"]
        return subject, json.loads(answer.partition(b"\r\n\r\n")[2])
    except ssl.SSLCertVerificationError:
        return None, None
