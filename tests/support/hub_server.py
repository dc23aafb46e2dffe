"""A hub of Hugging Face on this machine, as far as huggingface_hub asks one: repositories are made, files committed and fetched."""

import base64
import contextlib
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Hub(BaseHTTPRequestHandler):
    """Keeps the files of each repository in ``server.repositories``, and what was posted in ``server.posted``."""

    def log_message(self, *_):
        pass

    def _answer(self, document=None, status=200, content=None, headers=()):
        body = json.dumps(document).encode() if content is None else content
        self.send_response(status)
        for name, value in (("Content-Length", str(len(body))), *headers):
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _refuse(self, status, code, message):
        self._answer({"error": message}, status, headers=[("X-Error-Code", code), ("X-Error-Message", message)])

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        server, path = self.server, self.path.split("?")[0]
        server.posted.append((path, [json.loads(line) for line in body.decode().splitlines()]))
        if self.headers.get("Authorization") != f"Bearer {server.token}":
            return self._refuse(401, "", "Invalid username or password.")
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked.get('organization') or 'me'}/{asked['name']}"
            server.repositories.setdefault(name, {})
            return self._answer({"url": f"{server.url}/{name}", "id": name, "name": name})
        if path == "/api/validate-yaml":
            return self._answer({"errors": [], "warnings": []})
        name = "/".join(path.split("/")[3:5])
        if "/preupload/" in path:
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]
            return self._answer({"files": files})
        if "/commit/" in path:
            for line in map(json.loads, body.decode().splitlines()):
                if line["key"] == "file":
                    server.repositories[name][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            return self._answer(
                {"success": True, "commitOid": "c" * 40, "commitUrl": f"{server.url}/{name}/commit/{'c' * 40}"}
            )
        return self._refuse(404, "", f"no {path}")

    def do_GET(self):
        server, path = self.server, self.path.split("?")[0]
        parts = path.strip("/").split("/")
        name = "/".join(parts[2:4] if parts[0] == "api" else parts[:2])
        if name not in server.repositories:
            return self._refuse(404, "RepoNotFound", "Repository not found")
        files = server.repositories[name]
        if parts[0] == "api" and len(parts) > 4 and parts[4] == "tree":
            return self._answer(
                [{"type": "file", "path": file, "size": len(data), "oid": "a" * 40} for file, data in files.items()]
            )
        if parts[0] == "api":
            return self._answer(
                {
                    "id": name,
                    "sha": "c" * 40,
                    "siblings": [{"rfilename": file} for file in files],
                    "tags": [],
                    "private": False,
                }
            )
        file = "/".join(parts[4:])
        if parts[2] != "resolve" or file not in files:
            return self._refuse(404, "EntryNotFound", "Entry not found")
        digest = hashlib.sha256(files[file]).hexdigest()
        return self._answer(content=files[file], headers=[("ETag", f'"{digest}"'), ("X-Repo-Commit", "c" * 40)])

    do_HEAD = do_GET  # noqa: N815


@contextlib.contextmanager
def serve_hub(token="hf_test"):
    """Run a hub in a block."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.url, server.token = f"http://127.0.0.1:{server.server_address[1]}", token
    server.repositories, server.posted = {}, []
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
