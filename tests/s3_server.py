"""An S3 server on loopback, moto's, in a thread: it counts requests, and a test can make it misbehave."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

Environment = dict[str, object]
StartResponse = Callable[[str, list[tuple[str, str]]], object]

BUCKET = "orch"


class S3Server:
    """`requests` are (method, path) in their order; `before` sees each, and may answer with an HTTP status."""

    def __init__(self) -> None:
        from moto.server import DomainDispatcherApplication, create_backend_app
        from werkzeug.serving import make_server

        self.requests: list[tuple[str, str]] = []
        self.before: Callable[[str, str], str | None] = lambda method, path: None
        self.ignores_conditions = False
        self._application = DomainDispatcherApplication(create_backend_app)
        logging.getLogger("werkzeug").setLevel(logging.ERROR)  # no line per request
        self._server = make_server("127.0.0.1", 0, self._answer, threaded=True)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def reset(self) -> None:
        """One empty bucket, and good behaviour."""
        from moto.s3.models import s3_backends

        s3_backends.reset()
        self.before, self.ignores_conditions = lambda method, path: None, False
        s3_backends["123456789012"]["aws"].create_bucket(BUCKET, "us-east-1")
        self.requests.clear()

    def _answer(self, environ: Environment, start: StartResponse) -> Iterable[bytes]:
        method, path = str(environ["REQUEST_METHOD"]), str(environ["PATH_INFO"])
        self.requests.append((method, path))
        if self.ignores_conditions:
            environ.pop("HTTP_IF_NONE_MATCH", None)
        status = self.before(method, path)
        if status is not None:
            start(status, [("Content-Length", "0")])
            return [b""]
        answer: Iterable[bytes] = self._application(environ, start)
        return answer


def objects() -> dict[str, bytes]:
    """Key -> content of everything in the bucket, past the protocol."""
    from moto.s3.models import s3_backends

    bucket = s3_backends["123456789012"]["aws"].buckets[BUCKET]
    return {key: bucket.keys[key].value for key in sorted(bucket.keys)}


def damage(key: str) -> None:
    """Flip one bit in the middle of an object, past the protocol."""
    from moto.s3.models import s3_backends

    stored = s3_backends["123456789012"]["aws"].buckets[BUCKET].keys[key]
    content = bytearray(stored.value)
    content[len(content) // 2] ^= 1
    stored.value = bytes(content)


@contextmanager
def serving(patch: pytest.MonkeyPatch, cache: Path) -> Iterator[S3Server]:
    """A server with one empty bucket, to which the environment leads; skips the test where moto is not installed."""
    pytest.importorskip("moto.server", reason="moto is not installed: pip install 'moto[s3]' flask flask-cors")
    s3fs = pytest.importorskip("s3fs", reason="s3fs is not installed")
    server = S3Server()
    server.reset()
    for name, value in {
        "AWS_ENDPOINT_URL": server.url,
        "AWS_ACCESS_KEY_ID": "of-the-test",
        "AWS_SECRET_ACCESS_KEY": "hidden-word",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_CONFIG_FILE": str(cache / "none"),
        "AWS_SHARED_CREDENTIALS_FILE": str(cache / "none"),
        "AWS_EC2_METADATA_DISABLED": "true",
        "ORCH_CACHE": str(cache),
    }.items():
        patch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    try:
        yield server
    finally:
        s3fs.S3FileSystem.clear_instance_cache()
        server.stop()
