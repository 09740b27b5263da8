// A scripted model on loopback, speaking the Messages API over server-sent events: it makes a real coding agent call
// one tool and then report what the tool said. It is the model that is scripted, never the agent.
//
// Usage: node scripted-messages.mjs TOOL_SUFFIX JSON_ARGUMENTS   (prints {"port":…} when it listens)

import { createServer } from 'node:http';

const [toolSuffix, argumentsJson] = process.argv.slice(2);
let turn = 0;

function plain(content) {
  if (typeof content === 'string') return content;
  return (content ?? []).map((part) => part.text ?? '').join('');
}

// The answer to a request: one content block and why it ends.
function answer(request) {
  const blocks = request.messages.flatMap((message) => (Array.isArray(message.content) ? message.content : []));
  const result = blocks.filter((block) => block.type === 'tool_result').at(-1);
  if (result !== undefined) return { text: `TOOL SAID: ${plain(result.content)}` };
  const names = (request.tools ?? []).map((tool) => tool.name);
  // Side questions, such as the title of a conversation, come without tools.
  if (names.length === 0) return { text: 'ok' };
  const name = names.find((candidate) => candidate.endsWith(toolSuffix));
  return name === undefined ? { text: `NO SUCH TOOL ${toolSuffix} AMONG ${names.join(' ')}` } : { tool: name };
}

function events(request) {
  turn += 1;
  const { text, tool } = answer(request);
  const block = tool === undefined ? { type: 'text', text: '' } : { type: 'tool_use', id: `toolu_${turn}`, name: tool, input: {} };
  const delta =
    tool === undefined ? { type: 'text_delta', text } : { type: 'input_json_delta', partial_json: argumentsJson };
  const usage = { input_tokens: 1, output_tokens: 1 };
  const message = {
    id: `msg_${turn}`, type: 'message', role: 'assistant', model: request.model, content: [],
    stop_reason: null, stop_sequence: null, usage,
  };
  const stop = { stop_reason: tool === undefined ? 'end_turn' : 'tool_use', stop_sequence: null };
  return [
    { type: 'message_start', message },
    { type: 'content_block_start', index: 0, content_block: block },
    { type: 'content_block_delta', index: 0, delta },
    { type: 'content_block_stop', index: 0 },
    { type: 'message_delta', delta: stop, usage },
    { type: 'message_stop' },
  ];
}

createServer(async (request, response) => {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  const path = request.url.split('?')[0];
  if (request.method === 'POST' && path === '/v1/messages/count_tokens') {
    response.writeHead(200, { 'content-type': 'application/json' });
    response.end(JSON.stringify({ input_tokens: 1 }));
    return;
  }
  if (request.method !== 'POST' || path !== '/v1/messages') {
    response.writeHead(404).end();
    return;
  }
  const body = JSON.parse(Buffer.concat(chunks).toString('utf8'));
  response.writeHead(200, { 'content-type': 'text/event-stream' });
  for (const event of events(body)) response.write(`event: ${event.type}\ndata: ${JSON.stringify(event)}\n\n`);
  response.end();
}).listen(0, '127.0.0.1', function listening() {
  process.stdout.write(`${JSON.stringify({ port: this.address().port })}\n`);
});
process.stdin.on('end', () => process.exit(0)).resume();
