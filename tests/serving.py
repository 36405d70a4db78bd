"""A server on this machine that speaks the OpenAI chat-completions protocol, for tests."""

from __future__ import annotations

import json
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Server:
    """Replies to each request with what ``answer(body)`` gives: ``(status, text of the reply)``."""

    def __init__(self):
        self.requests, self.answer, self.busy, self.most_busy = [], lambda body: (200, "Score: 5"), 0, 0
        outer, lock = self, threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    outer.requests.append((self.path, dict(self.headers), body))
                    outer.busy += 1
                    outer.most_busy = max(outer.most_busy, outer.busy)
                status, text = outer.answer(body)
                with lock:
                    outer.busy -= 1
                reply = text if isinstance(text, bytes) else chat(text)
                self.send_response(status)
                if status == 302:
                    self.send_header("Location", "/elsewhere")
                self.send_header("Content-Length", str(len(reply)))
                self.end_headers()
                with suppress(BrokenPipeError):  # it did not wait
                    self.wfile.write(reply)

            def log_message(self, *args):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.01,))
        self.thread.start()

    def stop(self):
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()


def chat(text):
    return json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]}).encode()
