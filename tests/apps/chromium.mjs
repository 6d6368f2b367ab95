// Drives a headless Chromium for the tests and for measure.py. Needs node_modules with playwright-core and
// onnxruntime-web next to it, and the browser's path in CHROMIUM.
//
//   node chromium.mjs paint STYLE PHOTO OUTPUT.png    runs browser.mjs; the canvas becomes OUTPUT
//   node chromium.mjs measure THREADS                 runs measure.html; one request per line on stdin, milliseconds on stdout
//   node chromium.mjs webgpu FOLDER PHOTO [BUILD]     compares each flavor on WebGPU, in software, with WASM, as JSON;
//                                                     BUILD is ort or ort.webgpu
import { createServer } from "node:http";
import { readFile, writeFile } from "node:fs/promises";
import { basename, dirname, extname, join, resolve } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { chromium } from "playwright-core";

const here = dirname(fileURLToPath(import.meta.url));
const [task, ...rest] = process.argv.slice(2);
const types = { ".mjs": "text/javascript", ".html": "text/html", ".wasm": "application/wasm", ".png": "image/png" };
const distribution = join(here, "node_modules", "onnxruntime-web", "dist");
const roots = { apps: here, ort: distribution, file: "/" };

// Without the last two headers, a page gets no threads.
const server = createServer(async (request, response) => {
  const { pathname } = new URL(request.url, "http://localhost");
  const [, root, ...parts] = decodeURIComponent(pathname).split("/");
  try {
    if (!(root in roots)) throw new Error("no such folder");
    const body = await readFile(join(roots[root], ...parts));
    response.writeHead(200, {
      "Content-Type": types[extname(pathname)] ?? "application/octet-stream",
      "Cross-Origin-Opener-Policy": "same-origin",
      "Cross-Origin-Embedder-Policy": "require-corp",
    });
    response.end(body);
  } catch {
    response.writeHead(404).end();
  }
});
await new Promise((done) => server.listen(0, "127.0.0.1", done));
const site = `http://127.0.0.1:${server.address().port}`;
const address = (path) => `/file${resolve(path)}`;

const gpu = task === "webgpu";
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM,
  args: ["--headless", "--no-sandbox", "--disable-background-networking"].concat(
    gpu ? ["--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader", "--enable-features=Vulkan"] : ["--disable-gpu"],
  ),
});
try {
  const page = await browser.newPage();
  page.on("console", (message) => message.type() === "error" && console.error(message.text()));
  page.on("pageerror", (error) => console.error(error.message));
  if (task === "paint") {
    const [style, photo, output] = rest;
    await page.goto(`${site}/apps/browser.html?style=${address(style)}&photo=${address(photo)}`);
    await page.waitForFunction(() => document.title === "painted", null, { timeout: 60000 });
    const data = await page.evaluate(() => document.querySelector("canvas").toDataURL("image/png"));
    await writeFile(output, Buffer.from(data.split(",")[1], "base64"));
  } else {
    await page.goto(`${site}/apps/measure.html?${gpu ? `build=${rest[2] ?? "ort"}` : `threads=${rest[0]}`}`);
    await page.waitForFunction(() => window.ready, null, { timeout: 60000 });
    if (gpu) {
      const result = await page.evaluate(([folder, photo]) => window.compare(folder, photo), rest.slice(0, 2).map(address));
      console.log(JSON.stringify(result));
    } else {
      for await (const line of createInterface({ input: process.stdin })) {
        const request = JSON.parse(line);
        request.folder = address(request.folder);
        const answer = await page.evaluate((request) => window.answer(request), request);
        console.log(JSON.stringify(answer));
      }
    }
  }
} finally {
  await browser.close();
  server.close();
}
