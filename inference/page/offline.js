// On other people's hosts a service worker (sw.js) keeps the page for when there is no network, and adds the headers that
// threads need where the host does not send them.

import { now } from "./state.js";

const TAKEOVER_MS = 5000;
const RELOADED = `allaprima.reloaded ${location.pathname}`;

export async function keepOffline() {
  const { serviceWorker } = navigator;
  if (!document.querySelector('link[rel="manifest"]') || !serviceWorker) return;
  try {
    const taken = new Promise((resolve) => serviceWorker.addEventListener("controllerchange", resolve, { once: true }));
    const { active } = await serviceWorker.register("sw.js");
    // After a hard reload it is there, and keeps away.
    if (!serviceWorker.controller && !active) await Promise.race([taken, new Promise((resolve) => setTimeout(resolve, TAKEOVER_MS))]);
    if (self.crossOriginIsolated || !serviceWorker.controller || now.touched || sessionStorage.getItem(RELOADED)) return;
    sessionStorage.setItem(RELOADED, "once"); // the headers come with the page alone
    location.reload();
    await new Promise(() => {});
  } catch (error) {
    now.whyNotOffline = error.message; // in a private window, say: it paints all the same
  }
}
