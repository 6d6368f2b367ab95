// The page in headless Firefox with a fake camera: node firefox.mjs FIREFOX ADDRESS PHOTO FILM; prints the results as JSON.

import puppeteer from "puppeteer-core";

const [executablePath, address, photo, film] = process.argv.slice(2);
const extraPrefsFirefox = { "media.navigator.streams.fake": true, "media.navigator.permission.disabled": true };
const browser = await puppeteer.launch({ browser: "firefox", executablePath, headless: true, extraPrefsFirefox });
const tab = await browser.newPage(), found = { trouble: [] };
tab.setDefaultTimeout(60000);
tab.on("console", (message) => found.trouble.push(message.text()));
tab.on("pageerror", (error) => found.trouble.push(error.message));

await tab.goto(`${address}#style=great_wave`);
await tab.waitForSelector("body[data-ready]");
found.backend = await text("backend");
found.isolated = await tab.evaluate(() => crossOriginIsolated);
await tab.evaluate(() => {
  document.querySelectorAll("details").forEach((each) => { each.open = true; });
  window.saved = [];
  HTMLAnchorElement.prototype.click = function () {
    fetch(this.href).then((answer) => answer.bytes()).then((bytes) => saved.push([this.download, bytes.toBase64()]));
  };
});
await tab.select("#precision", "fp32");
await tab.waitForFunction(() => document.getElementById("network").textContent.includes("fp32"));
await tab.select("#format", "image/png");
await tab.select("#size", "4096");

await painted(() => open(photo));
found.picture = await saved(() => tab.click("#snapshot"));
await painted(() => open(film));
found.film = await saved(() => tab.click("#film"));
await tab.waitForFunction(() => document.getElementById("film").textContent === "Save whole video");
found.said = await text("message");
await tab.select("#size", "256");
await tab.click("#camera");
await tab.waitForFunction(() => document.getElementById("camera").textContent === "Stop camera"); // until then the film plays on
await painted(() => {});
await tab.click("#record");
await tab.waitForSelector("#record[data-on]");
for (let i = 0; i < 5; i++) await painted(() => {});
found.recording = await saved(() => tab.click("#record"));
await tab.select("#precision", "int8");
await tab.waitForFunction(() => document.getElementById("network").textContent.includes("int8"));
found.checked = await text("message");

console.log(JSON.stringify(found));
await browser.close();

function text(id) {
  return tab.$eval(`#${id}`, (element) => element.textContent);
}

async function open(path) {
  await (await tab.$("#file")).uploadFile(path);
}

async function painted(act) {
  const count = () => tab.$eval("#stage", (stage) => stage.dataset.painted ?? "0");
  const before = await count();
  await act();
  await tab.waitForFunction((before) => {
    const { state, painted } = document.getElementById("stage").dataset;
    return state === "painted" && painted !== before;
  }, {}, before);
}

async function saved(act) {
  const before = await tab.evaluate(() => saved.length);
  await act();
  await tab.waitForFunction((before) => saved.length > before, {}, before);
  return tab.evaluate(() => saved.at(-1));
}
