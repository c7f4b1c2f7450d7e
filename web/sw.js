/**
 * The service worker of the page: after the first visit it works offline. Files come from the cache of this version;
 * what is not in it (other models) is kept once it was used. Building the site fills in the version and the files.
 */
const CACHE = `octamark ${"VERSION_OF_THE_SITE"}`;
const FILES = "FILES_OF_THE_SITE";

self.addEventListener("install", (event) => {
  const fill = async () => {
    const cache = await caches.open(CACHE);
    // files that the page has fetched already are asked for again only by their date
    await cache.addAll(FILES.map((file) => new Request(file, { cache: "no-cache" })));
    await self.skipWaiting();
  };
  event.waitUntil(fill());
});

self.addEventListener("activate", (event) => {
  const tidy = async () => {
    const old = (await caches.keys()).filter((key) => key.startsWith("octamark ") && key !== CACHE);
    await Promise.all(old.map((key) => caches.delete(key)));
    await self.clients.claim();
  };
  event.waitUntil(tidy());
});

self.addEventListener("fetch", (event) => {
  const url = new URL(event.request.url);
  const inside = url.href.startsWith(self.registration.scope);
  if (event.request.method !== "GET" || !inside) return;
  const path = url.href.slice(self.registration.scope.length).split(/[?#]/)[0];
  const kept = FILES.includes(path === "" || path === "index.html" ? "./" : path) || /^(models|ort)\//.test(path);
  if (kept) event.respondWith(answer(event.request, path));
});

async function answer(request, path) {
  const cache = await caches.open(CACHE);
  const key = path === "" || path === "index.html" ? "./" : path;
  const found = await cache.match(key);
  if (found) return found;
  const response = await fetch(request);
  if (response.ok) await cache.put(key, response.clone());
  return response;
}
