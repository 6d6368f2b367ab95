// The service worker of an exported page: see offline.js. web.py fills in the names.

const SHELL = []; // what the page begins with
const FILES = []; // all that it may ask for, by names that say what is in them
const HEADERS = {};

const kept = caches.open(`allaprima ${registration.scope}`);
const scope = new URL(registration.scope).pathname;

addEventListener("install", (event) => event.waitUntil(install()));
addEventListener("activate", (event) => event.waitUntil(activate()));
addEventListener("fetch", (event) => {
  const { request } = event, url = new URL(request.url);
  if (request.method !== "GET" || url.origin !== location.origin || !url.pathname.startsWith(scope)) return;
  const path = url.pathname.slice(scope.length);
  if (request.mode === "navigate" && (path === "" || path === "index.html")) event.respondWith(page(request));
  else if (path.startsWith("files/")) event.respondWith(file(request));
  else if (SHELL.includes(path)) event.respondWith(page(request, path));
});

async function install() {
  await (await kept).addAll(SHELL.map((path) => new Request(path, { cache: path.startsWith("files/") ? "default" : "no-cache" })));
  await skipWaiting();
}

async function activate() {
  const store = await kept;
  for (const request of await store.keys()) {
    const path = new URL(request.url).pathname.slice(scope.length);
    if (path.startsWith("files/") && !FILES.includes(path)) await store.delete(request); // an older page's
  }
  await clients.claim();
}

/** From the network, else as it was the last time. */
async function page(request, path = "./") {
  const store = await kept;
  try {
    const answer = await fetch(request);
    if (!answer.ok) return answer;
    await store.put(path, answer.clone());
    return withHeaders(answer);
  } catch (error) {
    const last = await store.match(path);
    if (!last) throw error;
    return withHeaders(last);
  }
}

async function file(request) {
  const store = await kept, last = await store.match(request);
  if (last) return withHeaders(last);
  const answer = await fetch(request);
  if (answer.ok) store.put(request, answer.clone()).catch(() => {}); // a full disk
  return withHeaders(answer);
}

function withHeaders(answer) {
  const headers = new Headers(answer.headers);
  for (const name in HEADERS) headers.set(name, HEADERS[name]);
  const { status, statusText } = answer;
  return new Response(answer.body, { status, statusText, headers });
}
