// A scripted model on loopback, speaking the Responses API over server-sent events: it makes a real coding agent
// call one tool and then report what the tool said. It is the model that is scripted, never the agent.
//
// Usage: node scripted-model.mjs TOOL_SUFFIX JSON_ARGUMENTS   (prints {"port":…} when it listens)

import { createServer } from 'node:http';

const [toolSuffix, argumentsJson] = process.argv.slice(2);
let turn = 0;

function flatten(tools) {
  return tools.flatMap((tool) =>
    tool.type === 'namespace' ? tool.tools.map((inner) => ({ ...inner, namespace: tool.name })) : [tool],
  );
}

function item(request) {
  const outputs = request.input.filter((entry) => entry.type === 'function_call_output');
  if (outputs.length > 0) {
    const output = outputs.at(-1).output;
    const text = `TOOL SAID: ${typeof output === 'string' ? output : JSON.stringify(output)}`;
    return { type: 'message', role: 'assistant', id: 'msg_1', content: [{ type: 'output_text', text }] };
  }
  const tool = flatten(request.tools ?? []).find((candidate) => candidate.name?.endsWith(toolSuffix));
  if (tool === undefined) {
    const names = flatten(request.tools ?? []).map((candidate) => candidate.name);
    const text = `NO SUCH TOOL ${toolSuffix} AMONG ${names.join(' ')}`;
    return { type: 'message', role: 'assistant', id: 'msg_1', content: [{ type: 'output_text', text }] };
  }
  const call = { type: 'function_call', id: 'fc_1', call_id: 'call_1', name: tool.name, arguments: argumentsJson };
  return tool.namespace === undefined ? call : { ...call, namespace: tool.namespace };
}

createServer(async (request, response) => {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  if (request.method !== 'POST' || !request.url.endsWith('/responses')) {
    response.writeHead(404).end();
    return;
  }
  const body = JSON.parse(Buffer.concat(chunks).toString('utf8'));
  turn += 1;
  const id = `resp_${turn}`;
  const output = item(body);
  const events = [
    { type: 'response.created', response: { id } },
    { type: 'response.output_item.done', output_index: 0, item: output },
    {
      type: 'response.completed',
      response: { id, output: [output], usage: { input_tokens: 1, output_tokens: 1, total_tokens: 2 } },
    },
  ];
  response.writeHead(200, { 'content-type': 'text/event-stream' });
  for (const event of events) response.write(`event: ${event.type}\ndata: ${JSON.stringify(event)}\n\n`);
  response.end();
}).listen(0, '127.0.0.1', function listening() {
  process.stdout.write(`${JSON.stringify({ port: this.address().port })}\n`);
});
process.stdin.on('end', () => process.exit(0)).resume();
