"""What Python costs by itself: a bare ASGI application on stock uvicorn that passes bytes to and fro over our pool.

    python bench/passthrough.py --upstream http://127.0.0.1:9001 --port 9002

No keys, no policy, no evidence, no log: the floor that the gateway is compared with, built of the same two parts.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import uvicorn

from gateway.upstream.limits import Deadlines
from gateway.upstream.origin import Origin, parse_origin
from gateway.upstream.pool import UpstreamPool

JSON = (b"content-type", b"application/json")


class PassThrough:
    """Reads a request whole, sends it on, and returns the answer: whole when its length is known, else as it comes."""

    def __init__(self, origin: Origin) -> None:
        self.origin = origin
        self.pool: UpstreamPool | None = None
        self.deadlines = Deadlines()

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] == "lifespan":
            await self.lifespan(receive, send)
        elif scope["method"] == "POST":
            await self.relay(scope, receive, send)
        else:
            await answer(send, 200, [JSON, (b"content-length", b"2")], b"{}")

    async def lifespan(self, receive, send) -> None:
        await receive()
        self.pool = UpstreamPool()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self.pool.close()
        await send({"type": "lifespan.shutdown.complete"})

    async def relay(self, scope, receive, send) -> None:
        body = b""
        more = True
        while more:
            message = await receive()
            if message["type"] != "http.request":
                return
            body += message["body"]
            more = message["more_body"]
        connection = await self.pool.acquire(self.origin, None, 5.0)
        try:
            target = self.origin.target(scope["path"])
            head = await connection.request(b"POST", target, [JSON], body, self.deadlines)
            headers = [(b"content-type", head.get(b"content-type") or b"application/json")]
            if head.content_length is not None:
                data = await connection.read_all()
                await answer(send, head.status, [*headers, (b"content-length", str(len(data)).encode())], data)
                return
            await send({"type": "http.response.start", "status": head.status, "headers": headers})
            async for data in connection.chunks():
                await send({"type": "http.response.body", "body": data, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        finally:
            self.pool.release(connection)


async def answer(send, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--upstream", required=True, help="origin of the node, http://127.0.0.1:PORT")
    parser.add_argument("--port", type=int, required=True)
    args = parser.parse_args()
    app = PassThrough(parse_origin(args.upstream, allow_private=True))
    sys.stdout.write(json.dumps({"event": "starting", "port": args.port}) + "\n")
    sys.stdout.flush()
    uvicorn.run(app, port=args.port, log_level="warning", access_log=False, ws="none", proxy_headers=False)


if __name__ == "__main__":
    main()
