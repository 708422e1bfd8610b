// Comfort on top of pages that can be read without it: refreshing, leafing, playing, sending an acknowledgement.
"use strict";

const $ = (id) => document.getElementById(id);
const pad = (n) => String(n).padStart(2, "0");

// -- times in the reader's own zone, with how long ago ---------------------------------------------------------------

function tellTimes(root) {
  for (const time of root.querySelectorAll("time[datetime]")) {
    const at = new Date(time.dateTime);
    if (isNaN(at)) continue;
    const ago = Math.max(0, Date.now() - at) / 60000;
    const told = ago < 1 ? "just now" : ago < 90 ? `${Math.round(ago)} min ago` : ago < 2880 ? `${Math.round(ago / 60)} h ago` : `${Math.round(ago / 1440)} days ago`;
    const text = `${at.getFullYear()}-${pad(at.getMonth() + 1)}-${pad(at.getDate())} ${pad(at.getHours())}:${pad(at.getMinutes())} (${told})`;
    if (time.textContent !== text) time.textContent = text;
  }
}

// -- refreshing: what has changed takes the place of what was there ---------------------------------------------------

const tags = new WeakMap(); // box -> the ETag of what it last got
const served = new Map(); // id -> what the server last said: what a script has changed since is no news

function remember(root) {
  for (const part of root.querySelectorAll("[data-live]")) served.set(part.id, part.outerHTML);
}

async function refresh(box) {
  const began = performance.now();
  let answer;
  try {
    const known = tags.has(box) ? { "If-None-Match": tags.get(box) } : {};
    answer = await fetch(box.dataset.poll, { cache: "no-store", headers: { Accept: "text/html", ...known } });
    if (answer.status === 304) {
      $("stale").hidden = true;
      return;
    }
    if (!answer.ok) throw new Error(answer.status);
    if (answer.headers.has("ETag")) tags.set(box, answer.headers.get("ETag"));
  } catch {
    $("stale").hidden = false;
    return;
  }
  const text = await answer.text();
  const fetched = performance.now();
  const fresh = new DOMParser().parseFromString(text, "text/html");
  const parts = [...fresh.querySelectorAll("[data-live]")];
  const known = document.querySelectorAll("[data-live]").length;
  if (parts.length !== known || parts.some((part) => !$(part.id))) {
    location.reload(); // an embryo has come or gone: the places are others
    return;
  }
  let changed = 0;
  for (const part of parts) {
    const there = $(part.id);
    if (served.get(part.id) === part.outerHTML || busyIn(there)) continue;
    served.set(part.id, part.outerHTML);
    const open = [...there.querySelectorAll("details")].map((one) => one.open);
    const focused = there.contains(document.activeElement);
    there.replaceWith(part);
    part.querySelectorAll("details").forEach((one, n) => (one.open = open[n]));
    if (focused) part.querySelector("a, button")?.focus({ preventScroll: true });
    tellTimes(part);
    equip(part);
    changed += 1;
  }
  $("stale").hidden = true;
  document.dispatchEvent(new CustomEvent("refreshed", { detail: { changed, fetch_ms: fetched - began, work_ms: performance.now() - fetched } }));
}

const busyIn = (part) => part.contains(document.activeElement) && /^(INPUT|TEXTAREA|SELECT)$/.test(document.activeElement.tagName);

// -- pictures that are not there any more, or not at the moment, are said to be so --------------------------------------

function missing(image) {
  if (image.id === "shown" || !image.closest(".photo")) return; // the viewer has its caption
  const told = document.createElement("p");
  told.textContent = "the picture cannot be had now";
  image.replaceWith(told);
}

document.addEventListener("error", (event) => event.target.tagName === "IMG" && missing(event.target), true);
for (const image of document.images) if (image.complete && image.currentSrc && !image.naturalWidth) missing(image);

// -- commands: an acknowledgement, an assessment -----------------------------------------------------------------------

function equip(root) {
  for (const form of root.querySelectorAll("form.scripted")) {
    form.hidden = false;
    if (form.elements.by && !form.elements.by.value) form.elements.by.value = sessionStorage.getItem("by") ?? "";
  }
}

document.addEventListener("submit", async (event) => {
  const form = event.target.closest("form[data-command]");
  if (!form) return;
  event.preventDefault();
  const said = Object.fromEntries([...new FormData(form)].filter(([, value]) => value.trim() !== ""));
  if (said.by) sessionStorage.setItem("by", said.by); // for as long as this tab is open
  const answer = form.querySelector(".answer");
  const button = form.querySelector("button");
  button.disabled = true;
  answer.textContent = "is being recorded ...";
  try {
    const got = await fetch(`/api/v1/command/${form.dataset.command}`, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ id: `page-${Date.now()}-${Math.random().toString(36).slice(2, 10)}`, ...said }),
    });
    const text = await got.text();
    const told = got.headers.get("Content-Type")?.startsWith("application/json") ? JSON.parse(text).reason : text;
    answer.textContent = got.ok ? `recorded${told ? `: ${told}` : ""}` : `not recorded: ${told}`;
    if (got.ok) {
      document.activeElement?.blur();
      const box = document.querySelector("[data-poll]");
      if (box) await refresh(box);
    }
  } catch {
    answer.textContent = "not recorded: the monitor does not answer";
  }
  button.disabled = false;
});

equip(document);
for (const box of document.querySelectorAll("[data-poll]")) {
  remember(document);
  let running = false;
  setInterval(async () => {
    if (running || document.hidden) return;
    running = true;
    await refresh(box).finally(() => (running = false));
  }, 1000 * Number(box.dataset.every));
}
tellTimes(document);
setInterval(() => tellTimes(document), 30000);
if ($("print")) {
  $("print").hidden = false;
  $("print").addEventListener("click", () => print());
}

// -- leafing through planes and frames ---------------------------------------------------------------------------------

class Viewer {
  constructor(box, frames) {
    this.box = box;
    this.frames = frames;
    this.at = Math.max(0, frames.findIndex((one) => one.frame === box.dataset.frame));
    this.plane = box.dataset.plane === "" ? null : Number(box.dataset.plane);
    this.playing = null;
    this.turn = 0;
    $("scrub").hidden = $("keys").hidden = false;
    $("frame").addEventListener("input", () => this.show(Number($("frame").value)));
    $("play").addEventListener("click", () => this.play());
    for (const [id, go] of [["first", () => 0], ["before", () => this.at - 1], ["after", () => this.at + 1], ["newest", () => this.frames.length - 1]]) {
      $(id)?.addEventListener("click", (event) => { event.preventDefault(); this.show(go()); });
    }
    for (const link of box.querySelectorAll("a[data-plane]")) {
      link.addEventListener("click", (event) => { event.preventDefault(); this.focus(Number(link.dataset.plane)); });
    }
    document.addEventListener("keydown", (event) => this.key(event));
    document.addEventListener("click", (event) => this.pick(event));
    document.addEventListener("refreshed", () => this.follow());
    this.cursor();
  }

  key(event) {
    if (event.altKey || event.ctrlKey || event.metaKey || /^(INPUT|TEXTAREA|SELECT|BUTTON|SUMMARY)$/.test(event.target.tagName)) return;
    const planes = this.frames[this.at].planes;
    const there = planes.indexOf(this.near(planes));
    const acts = {
      ArrowLeft: () => this.show(this.at - 1),
      ArrowRight: () => this.show(this.at + 1),
      ArrowUp: () => this.focus(planes[Math.min(there + 1, planes.length - 1)]),
      ArrowDown: () => this.focus(planes[Math.max(there - 1, 0)]),
      Home: () => this.show(0),
      End: () => this.show(this.frames.length - 1),
      " ": () => this.play(),
    };
    if (!(event.key in acts)) return;
    event.preventDefault();
    acts[event.key]();
  }

  near(planes) {
    const wanted = this.plane ?? this.frames[this.at].sharpest_plane_um ?? 0;
    return planes.length ? planes.reduce((best, one) => (Math.abs(one - wanted) < Math.abs(best - wanted) ? one : best)) : null;
  }

  focus(plane) {
    this.plane = plane;
    return this.show(this.at);
  }

  address(frame, plane) {
    return `/page/picture/${this.box.dataset.embryo}/${frame.frame}/${plane}.jpg?side=640&rev=${frame.revision}`;
  }

  async show(number) {
    this.at = Math.min(Math.max(number, 0), this.frames.length - 1);
    const turn = ++this.turn;
    const frame = this.frames[this.at];
    const plane = this.near(frame.planes);
    $("frame").value = this.at;
    const hour = frame.hpi === null ? "hour unknown" : `${frame.hpi.toFixed(1)} h`;
    const odd = frame.flags.length ? ` · ${frame.flags.join(", ").replaceAll("_", " ")}` : "";
    const sharp = plane !== null && plane === frame.sharpest_plane_um ? " (sharpest)" : "";
    const told = plane === null ? "no picture" : `plane ${plane > 0 ? "+" : ""}${plane} µm${sharp}`;
    $("caption").textContent = `${hour} · frame ${this.at + 1} of ${this.frames.length} · ${told}${odd}`;
    $("frame").setAttribute("aria-valuetext", hour);
    for (const link of this.box.querySelectorAll("a[data-plane]")) {
      const own = Number(link.dataset.plane);
      link.toggleAttribute("aria-current", own === plane);
      if (own === plane) link.setAttribute("aria-current", "true");
      if (frame.planes.includes(own)) link.removeAttribute("aria-disabled");
      else link.setAttribute("aria-disabled", "true");
    }
    this.cursor();
    const shown = $("shown");
    if (!shown) return;
    shown.classList.toggle("gone", plane === null);
    if (plane === null) return;
    const next = new Image();
    next.src = this.address(frame, plane);
    try {
      await next.decode();
    } catch {
      if (turn === this.turn) { shown.classList.add("gone"); $("caption").textContent += " · its picture cannot be had now"; }
      return;
    }
    if (turn !== this.turn) return; // the reader is somewhere else by now
    shown.src = next.src;
    shown.alt = `Picture at ${hour}, plane ${plane} µm`;
    $("large").href = next.src.replace("side=640", "side=1280");
    for (const ahead of [1, 2]) {
      const later = this.frames[this.at + ahead];
      const own = later && this.near(later.planes);
      if (later && own !== null) new Image().src = this.address(later, own);
    }
  }

  async play() {
    if (this.playing) { this.stop(); return; }
    if (this.at === this.frames.length - 1) this.at = -1;
    const mine = (this.playing = Symbol());
    $("play").setAttribute("aria-pressed", "true");
    $("play").textContent = "Pause";
    while (this.playing === mine && this.at < this.frames.length - 1) {
      const began = performance.now();
      await this.show(this.at + 1);
      await new Promise((done) => setTimeout(done, Math.max(0, 90 - (performance.now() - began))));
    }
    if (this.playing === mine) this.stop();
  }

  stop() {
    this.playing = null;
    $("play").setAttribute("aria-pressed", "false");
    $("play").textContent = "Play";
  }

  x(frame) {
    if (this.frames.some((one) => one.hpi !== null)) return frame.hpi;
    const first = this.frames.find((one) => one.captured_at);
    if (first) return frame.captured_at ? (new Date(frame.captured_at) - new Date(first.captured_at)) / 3.6e6 : null;
    return this.frames.indexOf(frame);
  }

  cursor() {
    const plot = document.querySelector(".plot");
    const line = plot?.querySelector(".cursor");
    const x = this.frames.length ? this.x(this.frames[this.at]) : null;
    if (!line || x === null) return;
    const [left, right, width, end] = ["left", "right", "width", "end"].map((name) => Number(plot.dataset[name]));
    const at = left + ((width - left - right) * x) / end;
    line.setAttribute("x1", at);
    line.setAttribute("x2", at);
  }

  pick(event) {
    const plot = event.target.closest?.(".plot");
    if (!plot) return;
    const [left, right, width, end] = ["left", "right", "width", "end"].map((name) => Number(plot.dataset[name]));
    const box = plot.querySelector("svg").getBoundingClientRect();
    const x = (((event.clientX - box.left) / box.width) * width - left) / (width - left - right) * end;
    const xs = this.frames.map((one) => this.x(one));
    let best = this.at;
    xs.forEach((own, n) => { if (own !== null && Math.abs(own - x) < Math.abs((xs[best] ?? Infinity) - x)) best = n; });
    this.show(best);
  }

  async follow() {
    const many = Number($("facts")?.dataset.frames);
    if (many && many !== this.frames.length) {
      const atEnd = this.at === this.frames.length - 1;
      const frames = await framesOf(this.box);
      if (!frames.length) return;
      this.frames = frames;
      $("frame").max = this.frames.length - 1;
      if (atEnd && !this.playing) this.show(this.frames.length - 1);
    }
    this.cursor();
  }
}

async function framesOf(box) {
  const answer = await fetch(`/api/v1/embryos/${box.dataset.embryo}/frames`);
  return answer.ok ? (await answer.json()).frames : []; // then the links do the leafing
}

const box = document.querySelector(".viewer");
if (box && box.dataset.frame) framesOf(box).then((frames) => frames.length && new Viewer(box, frames));
