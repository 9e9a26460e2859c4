"""Hostile bytes on the socket: paths, heads and bodies that no HTTP client sends."""

import socket

import server

PATHS = [
    "/../etc/passwd", "/..%2f..%2fetc%2fpasswd", "/%2e%2e/%2e%2e/etc/passwd", "//etc/passwd", "/docs/..%5c..%5cboot",
    "/v1/files/../../../../etc/passwd", "/v1/files/%00", "/api/v1/uploads/..%2f..%2f..%2fetc%2fshadow",
    "/api/v1/jobs/%2e%2e%2f/images/0", "/result/....//....//etc/passwd", "/;/etc/passwd", "/%c0%ae%c0%ae/etc/passwd",
    "/%252e%252e%252fetc%252fpasswd", "file:///etc/passwd", "http://169.254.169.254/latest/meta-data", "*", "?",
    "/\\..\\", "/docs/%2e%2e%2f%2e%2e%2fetc%2fpasswd", "/v1/models/..%00", "/ws/..%2f", "/sdapi/v1/../../etc/passwd",
    "/" + "a" * 8000, "/" + "%00" * 100, "/v1/models/" + "../" * 50, "/%ff%fe%fd", "/docs#x", "/?q=" + "x" * 5000,
]
HEADS = [
    b"GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\nOrigin: null\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost@evil.example\r\n\r\n",
    b"GET / HTTP/1.1\r\n Host: localhost\r\n\r\n",
    b"GET / HTTP/9.9\r\nHost: localhost\r\n\r\n",
    b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
    b"GET /health HTTP/1.1\r\nHost: localhost\r\n" + b"X: y\r\n" * 1000 + b"\r\n",
    b"POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    b"POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
    b"POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999999999999\r\n\r\n",
    b"POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    b"Content-Length: 9999999999\r\n\r\n{",
    b"POST /generate HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFF\r\n",
    b"POST /generate HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n",
    b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: a\x01b\r\n\r\n",
    b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: a\xffb\r\n\r\n",
    b"GET /health HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer " + b"\xff" * 100 + b"\r\n\r\n",
    b"GET /health\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"\0" * 1000, b"\r\n" * 1000, b"CONNECT evil.example:443 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET /ws/x HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 99\r\n\r\n",
]


def main():
    attacks = [(method, path) for path in PATHS for method in ("GET", "POST", "DELETE", "PUT", "HEAD", "TRACE", "odd")]
    heads = [f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
             for method, path in attacks] + HEADS
    with server.running() as running:
        before = running.memory_mib()
        for head in heads:
            answer = send(running, head)
            status = answer.split(b" ")[1:2]
            is_expected = status and (status[0][:1] == b"4" or status[0] in (b"200", b"307", b"501"))
            assert not answer or is_expected, (head, answer)
            assert b"root:" not in answer, head
            if status == [b"200"]:
                is_page = b" / HTTP" in head and b"<!doctype html>" in answer.lower() and head.count(b"Host:") <= 1
                is_public = b" /docs" in head or b" /?q" in head or b"/health" in head
                assert is_public or is_page or head.startswith(b"HEAD / "), (head, answer[:200])
        assert running.status("/health") == 200
        assert not any("panicked" in str(entry) for entry in running.log)
        assert running.memory_mib() < before + 64
    return f"{len(heads)} attacks"


def send(running, head: bytes) -> bytes:
    """The answer; empty if the connection was closed or stays silent, as where the server waits for the rest."""
    with socket.create_connection((running.host, running.port)) as connection:
        connection.settimeout(0.3)
        answer = b""
        try:
            connection.sendall(head)
            connection.shutdown(socket.SHUT_WR)
            while part := connection.recv(65536):
                answer += part
        except OSError:
            pass
        return answer
