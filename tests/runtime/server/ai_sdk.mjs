// Vercel's AI SDK against the server at argv[2]: its default model speaks the Responses API. Prints one JSON line.
import { createOpenAI } from '@ai-sdk/openai';
import { generateText, jsonSchema, stepCountIs, streamText, tool } from 'ai';

const openai = createOpenAI({ baseURL: `${process.argv[2]}/v1`, apiKey: 'none' });
const model = openai('demo');
const question = { role: 'user', content: 'How do I open a file?' };
const options = { model, maxOutputTokens: 8, maxRetries: 0 };

const first = await generateText({ ...options, messages: [question] });
const { textStream } = streamText({ ...options, messages: [question] });
let streamed = '';
for await (const piece of textStream) streamed += piece;
// the SDK sends what it has received as a reference to a stored item
const again = [question, ...first.response.messages, { role: 'user', content: 'And close it?' }];
const second = await generateText({ ...options, messages: again });

const parameters = {
  type: 'object', properties: { n: { type: 'integer', minimum: 0, maximum: 9 } }, required: ['n'], additionalProperties: false,
};
const tools = { second: tool({ inputSchema: jsonSchema(parameters), execute: async ({ n }) => n + 1 }) };
const agent = await generateText({
  ...options, maxOutputTokens: 100, messages: [question], tools, stopWhen: stepCountIs(2),
  prepareStep: ({ stepNumber }) => ({ toolChoice: stepNumber === 0 ? 'required' : 'none' }),
});
const called = streamText({ ...options, maxOutputTokens: 100, messages: [question], tools, toolChoice: 'required' });
const kinds = [];
for await (const part of called.fullStream) kinds.push(part.type);
console.log(JSON.stringify({
  first: first.text, streamed, finish: first.finishReason, usage: first.usage, second: second.text,
  results: agent.steps[0].toolResults.map(({ input, output }) => [input, output]), steps: agent.steps.length, kinds,
}));
