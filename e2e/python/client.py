"""An unmodified MCP client: the official Python SDK, told one URL and nothing else.

Reads one JSON command a line from standard input ({"call": tool, "args": {...}} or {"list": true}), prints one JSON
answer a line. The URL is the first argument or COUNTERSIGN_MCP_URL.
"""

import asyncio
import json
import os
import sys

from mcp import Client


async def answer(client: Client, command: dict) -> dict:
    """Does what one command line asks, with the SDK's own calls."""
    if command.get("list"):
        return {"tools": [tool.name for tool in (await client.list_tools()).tools]}
    result = await client.call_tool(command["call"], command.get("args", {}))
    text = result.content[0].text if result.content else ""
    return {"text": text, "is_error": bool(result.is_error)}


async def main() -> None:
    """Connects once and answers until standard input ends."""
    url = sys.argv[1] if len(sys.argv) > 1 else os.environ["COUNTERSIGN_MCP_URL"]
    async with Client(url) as client:
        while line := await asyncio.to_thread(sys.stdin.readline):
            if not line.strip():
                continue
            try:
                reply = await answer(client, json.loads(line))
            except Exception as error:  # noqa: BLE001 - the test wants to see whatever the SDK raised
                detail = getattr(error, "error", None)
                code = getattr(detail, "code", None)
                reply = {"error": {"code": code, "message": str(error)}}
            print(json.dumps(reply), flush=True)


asyncio.run(main())
