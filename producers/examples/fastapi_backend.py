"""Generates images, shows the accepted ones, and waits for none (`pip install fastapi uvicorn standardwebhooks`):
REDIS_URL=redis://localhost:6379/0 WEBHOOK_SECRET=whsec_... PUBLIC_URL=http://127.0.0.1:8080 \
uvicorn --port 8080 fastapi_backend:app
"""

import asyncio
import logging
import os
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, HTTPException, Request, Response
from standardwebhooks import Webhook, WebhookVerificationError

from m3agiqa.client import AsyncClient
from m3agiqa.errors import M3AGIQAError

WEBHOOK = Webhook(os.environ["WEBHOOK_SECRET"])
PUBLIC_URL = os.environ["PUBLIC_URL"]
#: What becomes of an image that has no score after so many seconds: "keep" or "drop".
OTHERWISE = os.environ.get("OTHERWISE", "keep")
TIMEOUT_S = float(os.environ.get("TIMEOUT_S", "60"))
WHAT_TO_DO = {"accept": "shown", "review": "held", "reject": "withdrawn"}
#: Bytes of a callback, at most.
MAX_CALLBACK = 2**20

logger = logging.getLogger("uvicorn.error")
#: In the place of your database: what is done with each image.
gallery: dict[str, str] = {}


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with AsyncClient(os.environ["REDIS_URL"]) as app.state.client:
        yield


app = FastAPI(lifespan=lifespan)


def generate(prompt: str) -> bytes:
    """In the place of your generator: the bytes of an image."""
    import io

    from PIL import Image

    out = io.BytesIO()
    Image.new("RGB", (64, 64), (len(prompt) % 256, 0, 0)).save(out, "PNG")
    return out.getvalue()


def settle_unscored(image_id: str, why: str) -> None:
    """Decide for an image that has no score; a verdict that comes later decides anew."""
    if gallery[image_id] == "pending":
        gallery[image_id] = "shown" if OTHERWISE == "keep" else "withdrawn"
        logger.warning("image %s has no score and is %s: %s", image_id, gallery[image_id], why)


@app.post("/images", status_code=202)
async def create(prompt: str) -> dict[str, str]:
    image_id = uuid.uuid4().hex
    image = await asyncio.to_thread(generate, prompt)
    gallery[image_id] = "pending"
    try:
        await app.state.client.submit(
            image=image, prompt=prompt, request_id=image_id, callback_url=f"{PUBLIC_URL}/verdicts"
        )
    except M3AGIQAError as error:
        settle_unscored(image_id, str(error))
    else:
        asyncio.get_running_loop().call_later(TIMEOUT_S, settle_unscored, image_id, f"no verdict in {TIMEOUT_S:g} s")
    return {"id": image_id, "state": gallery[image_id]}


@app.get("/images/{image_id}")
async def look(image_id: str) -> dict[str, str]:
    if image_id not in gallery:
        raise HTTPException(404)
    return {"id": image_id, "state": gallery[image_id]}


@app.post("/verdicts", status_code=204)
async def receive(request: Request) -> Response:
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_CALLBACK:
            raise HTTPException(413)
    try:
        # The signature covers the bytes as they came: verify first, parse afterwards.
        verdict = WEBHOOK.verify(body, dict(request.headers))
    except WebhookVerificationError:
        raise HTTPException(401) from None
    image_id = verdict["request_id"]
    # A callback may come twice, which changes nothing here, or for an image that is gone.
    if image_id in gallery:
        # One that failed for good, as its prompt is too long for one, is decided as well.
        if verdict["status"] == "scored" or not verdict["error"]["retryable"]:
            gallery[image_id] = WHAT_TO_DO[verdict["decision"]]
        else:
            settle_unscored(image_id, verdict["error"]["message"])
    return Response(status_code=204)
