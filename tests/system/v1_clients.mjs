// The official OpenAI library for JavaScript: runs the scenarios that it reads as JSON, and prints what came of each.
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const given = JSON.parse(await new Promise((resolve) => {
  let text = "";
  process.stdin.on("data", (piece) => (text += piece)).on("end", () => resolve(text));
}));
const place = createRequire(`${given.folder}/package.json`).resolve("openai");
const OpenAI = (await import(pathToFileURL(place))).default;

async function run({ body, key }) {
  const client = new OpenAI({ apiKey: key, baseURL: `${given.url}/v1`, maxRetries: 0 });
  try {
    if (body.stream) {
      let text = "";
      let finish = null;
      for await (const chunk of await client.chat.completions.create(body)) {
        text += chunk.choices[0]?.delta?.content ?? "";
        finish = chunk.choices[0]?.finish_reason ?? finish;
      }
      return { text, finish };
    }
    const answer = await client.chat.completions.create(body);
    const [choice] = answer.choices;
    const wishes = (choice.message.tool_calls ?? []).map((call) => [call.id, call.function.name, call.function.arguments]);
    return { text: choice.message.content ?? "", finish: choice.finish_reason, wishes };
  } catch (error) {
    return { error: error.constructor.name, status: error.status, code: error.code };
  }
}

const said = [];
for (const each of given.scenarios) said.push(await run(each));
const client = new OpenAI({ apiKey: given.key, baseURL: `${given.url}/v1` });
const models = [];
for await (const model of client.models.list()) models.push(model.id);
process.stdout.write(JSON.stringify({ said, models }));
