"""The few answers of the hub that its client needs to send and fetch files, on loopback."""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import re
import threading
from contextlib import contextmanager
from urllib.parse import unquote

COMMIT = "a" * 40


class Hub:
    """Files by repository, and what was asked."""

    def __init__(self):
        self.files: dict[str, dict[str, bytes]] = {}
        self.asked: list[str] = []
        self.private: dict[str, bool] = {}


def _handler(hub: Hub):
    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def answer(self, value=None, status=200, body=None, **headers):
            content = json.dumps(value).encode() if body is None else body
            self.send_response(status)
            for name, text in headers.items():
                self.send_header(name.replace("_", "-"), text)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def refuse(self):
            self.answer({"error": "Repository not found"}, 404, X_Error_Code="RepoNotFound")

        def do_POST(self):
            text = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            hub.asked.append(f"POST {self.path}")
            if self.path == "/api/repos/create":
                asked = json.loads(text)
                name = "/".join(filter(None, (asked.get("organization"), asked["name"])))
                hub.files.setdefault(name, {})
                hub.private.setdefault(name, asked.get("private", asked.get("visibility") == "private"))
                return self.answer({"url": f"http://{self.headers['Host']}/{name}", "name": name})
            if self.path == "/api/validate-yaml":
                return self.answer({"errors": [], "warnings": []})
            if found := re.match(r"/api/models/(.+)/preupload/main", self.path):
                files = [
                    {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False}
                    for f in json.loads(text)["files"]
                ]
                return self.answer({"files": files})
            if found := re.match(r"/api/models/(.+)/commit/main", self.path):
                for line in map(json.loads, text.splitlines()):
                    if line["key"] == "file":
                        own = line["value"]
                        hub.files[found.group(1)][own["path"]] = base64.b64decode(own["content"])
                address = f"http://{self.headers['Host']}/{found.group(1)}/commit/{COMMIT}"
                return self.answer({"commitUrl": address, "commitOid": COMMIT, "success": True})
            return self.refuse()

        def do_GET(self):
            hub.asked.append(f"{self.command} {self.path}")
            path = unquote(self.path).split("?")[0]
            if path == "/":
                return self.answer({})
            if found := re.match(r"/api/models/([^/]+/[^/]+)(/revision/.+|/tree/.+)?$", path):
                name = found.group(1)
                if name not in hub.files:
                    return self.refuse()
                if "/tree/" in path:
                    return self.answer(
                        [
                            {"type": "file", "path": f, "size": len(c), "oid": hashlib.sha1(c).hexdigest()}
                            for f, c in hub.files[name].items()
                        ]
                    )
                siblings = [{"rfilename": file} for file in hub.files[name]]
                return self.answer({"id": name, "modelId": name, "sha": COMMIT, "siblings": siblings, "private": False})
            if found := re.match(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)$", path):
                files = hub.files.get(found.group(1))
                if files is None:
                    return self.refuse()
                content = files.get(found.group(2))
                if content is None:
                    return self.answer({}, 404, X_Error_Code="EntryNotFound", X_Repo_Commit=COMMIT)
                tag = hashlib.sha256(content).hexdigest()
                return self.answer(body=content, ETag=f'"{tag}"', X_Repo_Commit=COMMIT, Accept_Ranges="bytes")
            return self.refuse()

        do_HEAD = do_GET  # noqa: N815

    return Handler


@contextmanager
def serving():
    """A hub with its address."""
    hub = Hub()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield hub, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
