"""A hub on this machine with one small network, served as the real one serves its files."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import timm
from timm.models import save_for_hf

NETWORK = "hf-hub:me/tiny"
COMMIT = "0" * 39 + "1"


@contextmanager
def fake_hub(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Serve `NETWORK`.

    Args:
        folder: An empty one for its files.

    Yields:
        Address of the hub, and the files that were downloaded so far.
    """
    network = timm.create_model("vit_tiny_patch16_224", depth=1, img_size=32, num_classes=0)
    save_for_hf(network, str(folder), model_args={"depth": 1, "img_size": 32}, safe_serialization=True)
    sent: list[str] = []

    class Files(BaseHTTPRequestHandler):
        def _answer(self, *, with_data: bool) -> None:
            file = folder / Path(self.path.split("?")[0]).name
            if not self.path.startswith("/me/tiny/resolve/main/") or not file.is_file():
                self.send_response(404)
                self.send_header("X-Error-Code", "RepoNotFound" if "/me/tiny/" not in self.path else "EntryNotFound")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            data = file.read_bytes()
            self.send_response(200)
            self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if with_data:
                sent.append(file.name)
                self.wfile.write(data)

        def do_HEAD(self) -> None:
            self._answer(with_data=False)

        def do_GET(self) -> None:
            self._answer(with_data=True)

        def log_message(self, *_: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Files)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", sent
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
