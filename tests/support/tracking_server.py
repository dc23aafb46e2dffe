"""A small tracking server on loopback that answers MLflow's requests, or fails in a way that a test chooses."""

import json
import time
import uuid
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from urllib.parse import parse_qs, urlparse


class TrackingServer:
    """The state of the server: how it answers now, and what it has stored.

    Attributes
    ----------
    mode : str
        ``ok``, ``500``, ``silent``, ``garbage``, ``redirects``, ``hang up`` or ``slow``.
    runs : dict
        Parameters, tags, metrics and status by run id.
    asked : int
        Number of requests.
    """

    def __init__(self, artefacts, mode="ok"):
        self.mode, self.runs, self.experiments, self.asked, self.artefacts = mode, {}, {}, 0, artefacts
        self.ended, self.address = Event(), ""

    def answer(self, path, fields):
        """Return status and document of MLflow's answer to a request."""
        call = path.partition("/mlflow/")[2]
        if call == "experiments/get-by-name":
            name = fields["experiment_name"]
            return (200, {"experiment": self._experiment(name)}) if name in self.experiments else self._missing()
        if call == "experiments/create":
            self.experiments[fields["name"]] = str(len(self.experiments) + 1)
            return 200, {"experiment_id": self.experiments[fields["name"]]}
        if call == "runs/create":
            run_id = uuid.uuid4().hex
            self.runs[run_id] = {
                "params": {},
                "metrics": [],
                "tags": {},
                "status": "RUNNING",
                "name": fields.get("run_name"),
            }
            self._tag(run_id, fields.get("tags", ()))
            return 200, {"run": self._run(run_id)}
        run_id = fields.get("run_id")
        if run_id not in self.runs:
            return self._missing()
        if call == "runs/log-batch":
            self.runs[run_id]["params"] |= {p["key"]: p["value"] for p in fields.get("params", ())}
            self.runs[run_id]["metrics"] += fields.get("metrics", ())
            return 200, {}
        if call == "runs/set-tag":
            self._tag(run_id, [fields])
            return 200, {}
        if call == "runs/update":
            self.runs[run_id]["status"] = fields.get("status", "RUNNING")
            return 200, {"run_info": self._run(run_id)["info"]}
        return (200, {"run": self._run(run_id)}) if call == "runs/get" else self._missing()

    def _tag(self, run_id, tags):
        self.runs[run_id]["tags"] |= {tag["key"]: tag["value"] for tag in tags}

    def _experiment(self, name):
        return {"experiment_id": self.experiments[name], "name": name, "lifecycle_stage": "active"}

    def _run(self, run_id):
        run, place = self.runs[run_id], f"file://{self.artefacts}/{run_id}"
        info = {"run_id": run_id, "run_uuid": run_id, "experiment_id": "1", "status": run["status"]}
        info |= {"artifact_uri": place, "lifecycle_stage": "active", "start_time": 0}
        return {"info": info, "data": {"tags": [{"key": k, "value": v} for k, v in run["tags"].items()]}}

    @staticmethod
    def _missing():
        return 404, {"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "there is no such thing"}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.0"  # a connection for each request

    def _respond(self):
        state = self.server.state
        state.asked += 1
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        mode, address = state.mode, urlparse(self.path)
        if mode == "silent":
            state.ended.wait(60)
        if mode in ("silent", "hang up"):
            self.close_connection = True
            return
        if mode == "slow":
            time.sleep(0.05)
        fields = json.loads(body) if body else {key: values[0] for key, values in parse_qs(address.query).items()}
        status, document = state.answer(address.path, fields) if mode in ("ok", "slow") else (200, None)
        self.send_response({"500": 500, "redirects": 302}.get(mode, status))
        if mode == "redirects":
            self.send_header("Location", self.path)
        self.end_headers()
        self.wfile.write(b"<html>\x1b[31mSign in" if document is None else json.dumps(document).encode())

    def __getattr__(self, name):
        if name in ("do_GET", "do_POST", "do_PATCH"):
            return self._respond
        raise AttributeError(name)

    def log_message(self, *_):
        pass


@contextmanager
def serve_tracking(artefacts, mode="ok"):
    """Give a server for a block."""
    state = TrackingServer(artefacts, mode)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.state, server.daemon_threads = state, True
    state.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield state
    finally:
        state.ended.set()
        server.shutdown()
        server.server_close()
        thread.join()
