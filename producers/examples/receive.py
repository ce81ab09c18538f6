"""Receives verdicts, and prints those that were signed with our secret (`pip install standardwebhooks`):
WEBHOOK_SECRET=whsec_... python receive.py 9000
"""

import os
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from standardwebhooks import Webhook, WebhookVerificationError

WEBHOOK = Webhook(os.environ["WEBHOOK_SECRET"])


class Receiver(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        # The signature covers the bytes as they came: verify first, parse afterwards.
        body = self.rfile.read(int(self.headers["content-length"]))
        try:
            verdict = WEBHOOK.verify(body, dict(self.headers))
        except WebhookVerificationError:
            self.send_error(401)
            return
        print(verdict["request_id"], verdict["decision"], flush=True)
        self.send_response(204)
        self.end_headers()


ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Receiver).serve_forever()
