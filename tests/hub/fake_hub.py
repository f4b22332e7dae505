"""A Hub on this machine that speaks as much of the protocol as a push needs."""

import base64
import hashlib
import json
import re
import threading
from collections import defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


class FakeHub:
    """Keeps repositories as branches of files, and what it was asked.

    Attributes:
        files: Repository id, then branch, then path to bytes.
        commits: The header and the operations of each commit, in order.
        asked: Method, path and token of each request.
        failures: A part of a path, to the status and the body with which such a request is answered.
    """

    def __init__(self):
        self.files = defaultdict(dict)
        self.commits, self.asked, self.failures = [], [], {}
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self._thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()
        self._thread.join()

    def answer(self, method, path, body):
        for part, failure in self.failures.items():
            if part in path:
                return failure
        if (method, path) == ("POST", "/api/repos/create"):
            asked = json.loads(body)
            repo = f"{asked['organization']}/{asked['name']}"
            status = 409 if repo in self.files else 200
            self.files[repo].setdefault("main", {".gitattributes": b""})
            return status, {"url": f"{self.url}/datasets/{repo}", "visibility": asked.get("visibility")}
        if (method, path) == ("POST", "/api/validate-yaml"):
            return 200, {"errors": [], "warnings": []}
        found = re.fullmatch(r"/api/datasets/([^/]+/[^/]+)/(revision|tree|branch|preupload|commit)/([^/]+)", path)
        if not found or found[1] not in self.files:
            return 404, {"error": "Repository not found"}
        repo, action, branch = found[1], found[2], unquote(found[3])
        branches = self.files[repo]
        if action == "branch":
            status = 409 if branch in branches else 200
            branches.setdefault(branch, dict(branches["main"]))
            return status, {}
        if branch not in branches:
            return 404, {"error": "Revision not found"}
        return getattr(self, f"_{action}")(repo, branches[branch], body)

    def _revision(self, repo, files, body):
        return 200, {"id": repo, "sha": f"{len(self.commits):040x}", "private": False, "tags": []}

    def _tree(self, repo, files, body):
        return 200, [
            {"type": "file", "path": path, "size": len(content), "oid": _oid(content)}
            for path, content in files.items()
        ]

    def _preupload(self, repo, files, body):
        asked = [file["path"] for file in json.loads(body)["files"]]
        known = {path: _oid(files[path]) for path in asked if path in files}
        return 200, {
            "files": [
                {"path": path, "uploadMode": "regular", "shouldIgnore": False, "oid": known.get(path)} for path in asked
            ]
        }

    def _commit(self, repo, files, body):
        header, *operations = map(json.loads, body.splitlines())
        for operation in operations:
            value = operation["value"]
            if operation["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            else:
                assert operation["key"] == "deletedFile"
                del files[value["path"]]
        self.commits.append((header["value"], operations))
        oid = f"{len(self.commits):040x}"
        return 200, {"success": True, "commitOid": oid, "commitUrl": f"{self.url}/datasets/{repo}/commit/{oid}"}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self._serve("GET")

    def do_POST(self):
        self._serve("POST")

    def _serve(self, method):
        path = urlsplit(self.path).path
        self.hub.asked.append((method, path, self.headers.get("Authorization")))
        status, answer = self.hub.answer(method, path, self._body())
        content = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _body(self):
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def log_message(self, *arguments):
        pass


def _oid(content):
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
