"""The official Python SDK of the Model Context Protocol, on standard input and output and over streamable HTTP."""

import asyncio
import base64
import json
import pathlib
import tempfile

import server

TOOLS = ["generate", "edit", "upscale", "list_models", "plan", "job_status", "cancel"]
SMALL = {"prompt": "a fox", "width": 64, "height": 64}
KEY = "secret"


def main():
    try:
        import mcp  # noqa: F401
        from mcp.client import Client  # noqa: F401
    except ImportError as error:
        raise server.Skipped(error) from error
    import importlib.metadata

    # Versions from 2026-07-28 on, and those before.
    for mode in ["auto", "legacy"]:
        with tempfile.TemporaryDirectory() as folder:
            asyncio.run(standard_streams(pathlib.Path(folder), mode))
    with server.running("--fake-step-ms", "20", "--log-level", "debug", env={"DJ_FLUX2_API_KEY": KEY}) as running:
        for mode in ["auto", "legacy"]:
            asyncio.run(streamable_http(running, mode))
        # Prompts are in no line of the log.
        assert not [entry for entry in running.log if "a fox" in json.dumps(entry)], running.log
    return importlib.metadata.version("mcp")


def result_of(answer):
    """The JSON and the images of an answer."""
    texts = [block.text for block in answer.content if block.type == "text"]
    images = [block for block in answer.content if block.type == "image"]
    try:
        return json.loads(texts[0]), [(image.mime_type, base64.b64decode(image.data)) for image in images]
    except ValueError:
        return texts[0], []


async def ok(client, tool, arguments=None, **options):
    answer = await client.call_tool(tool, arguments or {}, **options)
    record, images = result_of(answer)
    assert not answer.is_error, record
    return record, images


async def fails(client, tool, arguments, part):
    answer = await client.call_tool(tool, arguments)
    assert answer.is_error and part in answer.content[0].text, answer
    return answer.content[0].text


def process(folder: pathlib.Path, *flags: str):
    """A transport to a process of its own."""
    from mcp.client.stdio import StdioServerParameters, stdio_client

    arguments = ["mcp", "--root", str(folder / "root"), "--no-text-cache", *flags]
    errors = open(folder / "stderr", "w")
    return stdio_client(StdioServerParameters(command=str(server.PROGRAM), args=arguments, cwd=folder), errlog=errors)


async def standard_streams(folder: pathlib.Path, mode: str) -> None:
    """klein-mini draws; files are in the folder; the history goes on with the next process."""
    from mcp.client import Client

    async with Client(process(folder), mode=mode) as client:
        tools = (await client.list_tools()).tools
        assert [tool.name for tool in tools] == TOOLS
        assert all(tool.description and tool.input_schema["type"] == "object" for tool in tools)
        models, _ = await ok(client, "list_models")
        assert models["models"][0]["name"] == "klein-mini" and "emoji" in models["models"][0]["note"], models
        told = []

        async def heard(progress, total, message):
            told.append((progress, total, message))

        prompt = "a cat on a blue background"
        drawn, images = await ok(client, "generate", {"prompt": prompt, "seed": 11, "name": "cat"},
                                 progress_callback=heard)
        assert images[0][0] == "image/png" and told and told == sorted(told), told
        file = pathlib.Path(drawn["pictures"][0]["path"])
        assert file.is_relative_to(folder.resolve() / "root") and file.read_bytes() == images[0][1]
        edited, _ = await ok(client, "edit", {"prompt": "make the background green", "references": ["$cat"]})
        assert edited["pictures"][0]["ref"] == "$2"
        larger, _ = await ok(client, "upscale", {"image": "$-1", "upscale": 2, "output": "large/cat.jpg"})
        assert larger["width"] == 256 and (folder / "root/large/cat.jpg").read_bytes().startswith(b"\xff\xd8")
        await fails(client, "edit", {"prompt": "p", "references": ["/etc/passwd"]}, "leads out of the folder")
        await fails(client, "edit", {"prompt": "p", "references": ["../stderr"]}, "leads out of the folder")
        await fails(client, "generate", {"prompt": "p", "widht": 64}, 'use "width"')
    async with Client(process(folder), mode=mode) as client:
        listed, _ = await ok(client, "job_status")
        assert [picture["ref"] for picture in listed["history"]] == ["$3", "$2", "$1"], listed
    async with Client(process(folder, "--backend", "fake", "--fake-step-ms", "100000"), mode=mode) as client:
        await cancelled(client)
    lines = (folder / "stderr").read_text()
    assert "panicked" not in lines and "a cat" not in lines, lines


async def cancelled(client) -> None:
    """A call that is given up ends its job, and so does the tool."""
    call = asyncio.create_task(client.call_tool("generate", {**SMALL, "wait_seconds": 600}))
    await until(client, "running")
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    await until(client, "cancelled")
    begun, _ = await ok(client, "generate", {**SMALL, "wait_seconds": 0})
    await ok(client, "cancel", {"id": begun["id"]})
    ended, _ = await ok(client, "job_status", {"id": begun["id"], "wait_seconds": 30})
    assert ended["state"] == "cancelled", ended


async def until(client, state: str) -> None:
    """Waits until the latest job is in a state."""
    for _ in range(200):
        listed, _ = await ok(client, "job_status")
        if listed["jobs"] and listed["jobs"][0]["state"] == state:
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"no job is {state}: {listed}")


async def streamable_http(running, mode: str) -> None:
    """The same tools behind the keys of the server; pictures come below its address."""
    import httpx2
    from mcp.client import Client
    from mcp.client.streamable_http import streamable_http_client

    assert running.call("/mcp", {"jsonrpc": "2.0", "id": 1, "method": "ping"})[0] == 401
    headers = {"authorization": f"Bearer {KEY}"}
    async with httpx2.AsyncClient(headers=headers, timeout=60) as http:
        async with Client(streamable_http_client(f"{running.base}/mcp", http_client=http), mode=mode) as client:
            assert [tool.name for tool in (await client.list_tools()).tools] == TOOLS
            told = []

            async def heard(progress, total, message):
                told.append(progress)

            drawn, images = await ok(client, "generate", {**SMALL, "name": "fox"}, progress_callback=heard)
            assert told and told == sorted(set(told)), told
            url = drawn["pictures"][0]["url"]
            assert (await http.get(running.base + url)).content == images[0][1]
            edited, _ = await ok(client, "edit", {"prompt": "p", "references": ["$fox"]})
            assert int(edited["pictures"][0]["ref"][1:]) == int(drawn["pictures"][0]["ref"][1:]) + 1
            await fails(client, "upscale", {"image": "/etc/passwd"}, "reads no files")
            await fails(client, "generate", {**SMALL, "width": 65}, "use a width of 64 or 80")
            slow = {**SMALL, "steps": 200, "wait_seconds": 600}
            call = asyncio.create_task(client.call_tool("generate", slow))
            await until(client, "running")
            call.cancel()
            await asyncio.gather(call, return_exceptions=True)
            await until(client, "cancelled")
