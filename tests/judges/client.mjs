// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later
// The TypeScript client against /mcp and /mcp/fixture: client.mjs ORIGIN MODE, the credential in CREDENTIAL.
// MODE: legacy (what it does unless told otherwise) or auto. Prints one JSON object of what it was told.
import { Client, StreamableHTTPClientTransport } from '@modelcontextprotocol/client';

const [origin, mode] = process.argv.slice(2);
const found = {};
const authProvider = { token: async () => process.env.CREDENTIAL };

async function connected(path, work) {
  const options = { capabilities: { elicitation: {}, sampling: {}, roots: {} } };
  if (mode === 'auto') options.versionNegotiation = { mode: 'auto' };
  const client = new Client({ name: 'judge', version: '1.0.0' }, options);
  client.setRequestHandler('elicitation/create', async () => ({
    action: 'accept',
    content: { username: 'u', email: 'u@example.org' },
  }));
  client.setRequestHandler('sampling/createMessage', async () => ({
    role: 'assistant',
    model: 'm',
    content: { type: 'text', text: 'sampled' },
  }));
  client.setRequestHandler('roots/list', async () => ({ roots: [{ uri: 'file:///r' }] }));
  await client.connect(new StreamableHTTPClientTransport(new URL(origin + path), { authProvider }));
  try {
    await work(client);
  } finally {
    await client.close();
  }
}

const text = (result) => result.content.map((block) => block.text).join('');

await connected('/mcp', async (client) => {
  found.version = client.getNegotiatedProtocolVersion();
  found.server = client.getServerVersion().name;
  found.front = (await client.listTools()).tools.map((tool) => tool.name);
  found.servers = (await client.callTool({ name: 'list_servers', arguments: {} })).structuredContent;
  const called = { name: 'fixture__test_echo', arguments: { text: 'hi' } };
  found.called = text(await client.callTool({ name: 'call_tool', arguments: called }));
  const search = await client.callTool({ name: 'find_tools', arguments: { query: 'test_simple_text' } });
  found.found = search.structuredContent.tools.map((tool) => tool.name).includes('fixture__test_simple_text');
});

await connected('/mcp/fixture', async (client) => {
  found.tools = (await client.listTools()).tools.length;
  found.prompts = (await client.listPrompts()).prompts.length;
  found.resources = (await client.listResources()).resources.length;
  found.read = (await client.readResource({ uri: 'test://static-text' })).contents[0].text;
  found.prompt = (await client.getPrompt({ name: 'test_simple_prompt' })).messages[0].content.text;
  found.echo = text(await client.callTool({ name: 'test_echo', arguments: { text: 'hi' } }));
  found.header = text(await client.callTool({ name: 'test_x_mcp_header', arguments: { region: 'eu' } }));
  found.elicited = text(await client.callTool({ name: 'test_elicitation', arguments: { message: 'who' } }));
  found.sampled = text(await client.callTool({ name: 'test_sampling', arguments: { prompt: 'p' } }));
  found.roots = text(await client.callTool({ name: 'test_input_required_result_list_roots', arguments: {} }));
  found.steps = [];
  const onprogress = (step) => found.steps.push(step.progress);
  await client.callTool({ name: 'test_tool_with_progress', arguments: {} }, { onprogress });
  found.failed = (await client.callTool({ name: 'test_error_handling', arguments: {} })).isError;
  found.unknown = await client.callTool({ name: 'nothing', arguments: {} }).then(
    () => null,
    (error) => error.code,
  );
});

console.log(JSON.stringify(found));
