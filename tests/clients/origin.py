"""The protocol of the Python program dj-flux2, as its `api-generate` speaks it: routes, polling, WebSocket."""

import asyncio
import base64
import json
import re
import time

import server


def main():
    with server.running("--fake-step-ms", "20") as running:
        token = submit(running, {"prompt": "a fox", "model": "klein-4b", "width": 64, "height": 64, "seed": 5,
                                 "input_image_base64": [base64.b64encode(server.png()).decode()]})
        while (status := running.call(f"/status/{token}")[2])["status"] in ("queued", "running"):
            time.sleep(0.05)
        assert status["status"] == "completed" and status["seed"] == 5, status
        code, headers, content = running.call(f"/result/{token}")
        assert code == 200 and content.startswith(b"\x89PNG")
        name = headers["content-disposition"]
        assert re.search(r'filename="\d{8}_\d{6}_[0-9a-f]{8}\.png"', name), name
        assert running.call("/models")[2]["supported"] == ["klein-4b"]
        queued = [submit(running, {"prompt": "p", "width": 64, "height": 64, "steps": 200}) for _ in range(2)]
        assert [job["token"] for job in running.call("/queue")[2]] == queued
        for one in queued:
            assert running.call(f"/cancel/{one}", {})[2] == {"success": True, "message": "Cancelled"}
        assert running.call("/generate", {"prompt": "p", "model": "none"})[0] == 400
        assert running.call("/generate", {})[2]["detail"][0]["loc"] == ["body", "prompt"]
        try:
            import websockets
        except ImportError as error:
            raise server.Skipped(f"the WebSocket: {error}") from error
        asyncio.run(socket(websockets, running))
    return "8 routes"


def submit(running, request) -> str:
    code, _, answer = running.call("/generate", request)
    assert code == 201 and re.fullmatch("[0-9a-f]{32}", answer["token"]), answer
    return answer["token"]


async def socket(websockets, running):
    base = running.base.replace("http", "ws")
    token = submit(running, {"prompt": "a fox", "width": 64, "height": 64, "steps": 20, "seed": 3})
    async with websockets.connect(f"{base}/ws/{token}") as connection:
        frames = [json.loads(frame) async for frame in connection]
    assert frames[0]["type"] == "progress" and set(frames[0]) == {"type", "status", "queue_position", "progress"}
    assert frames[-1] == {"type": "complete", "status": "completed", "seed": 3, "error": None}, frames[-1]
    token = submit(running, {"prompt": "a fox", "width": 64, "height": 64, "steps": 40, "seed": 3})
    async with websockets.connect(f"{base}/ws/{token}?previews=true") as connection:
        frames = [json.loads(frame) async for frame in connection]
    shown = [frame["preview"] for frame in frames[:-1]]
    assert any(shown) and base64.b64decode([preview for preview in shown if preview][0]).startswith(b"\x89PNG")
    async with websockets.connect(f"{base}/ws/{'0' * 32}") as connection:
        assert json.loads(await connection.recv())["type"] == "error"
        await connection.wait_closed()
    assert connection.close_code == 4004, connection.close_code
