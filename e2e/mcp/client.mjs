// An unmodified MCP client: the official TypeScript SDK, told one URL and nothing else.
//
// Reads one JSON command a line from standard input ({"call":"tool","args":{…}} or {"list":true}), prints one
// JSON answer a line. The URL comes from COUNTERSIGN_MCP_URL or the first argument.

import { createInterface } from 'node:readline';

import { Client } from '@modelcontextprotocol/sdk/client/index.js';
import { StreamableHTTPClientTransport } from '@modelcontextprotocol/sdk/client/streamableHttp.js';

const url = process.argv[2] ?? process.env.COUNTERSIGN_MCP_URL;
const client = new Client({ name: 'plain-client', version: '1.0.0' });
await client.connect(new StreamableHTTPClientTransport(new URL(url)));

async function answer(command) {
  if (command.list) {
    const { tools } = await client.listTools();
    return { tools: tools.map((tool) => tool.name) };
  }
  const result = await client.callTool({ name: command.call, arguments: command.args ?? {} }, undefined, {
    timeout: command.timeout_ms ?? 60_000,
  });
  return { text: result.content?.[0]?.text ?? '', is_error: result.isError === true };
}

for await (const line of createInterface({ input: process.stdin })) {
  if (line.trim() === '') continue;
  let reply;
  try {
    reply = await answer(JSON.parse(line));
  } catch (error) {
    reply = { error: { code: error.code ?? null, message: error.message, data: error.data ?? null } };
  }
  process.stdout.write(`${JSON.stringify(reply)}\n`);
}
await client.close();
