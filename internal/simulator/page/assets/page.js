// SPDX-License-Identifier: MPL-2.0
"use strict";

// Whatever is shown was named by a request: it gets into the page as text and
// attributes only, never as HTML.

const byId = (id) => document.getElementById(id);

// el makes an element; strings among the children become text.
function el(tag, className, ...children) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.append(...children);
  return made;
}

// setText leaves what is right already alone, so that selections live on.
function setText(node, text) {
  if (node.textContent !== String(text)) node.textContent = text;
}

// reconcile makes the children of list those of items, in their order. The node
// of an item that was there before is kept, with its focus; of several items with
// one key that is so for one.
function reconcile(list, items, keyOf, create, update) {
  const old = new Map([...list.children].map((node) => [node.dataset.key, node]));
  const kept = new Set();
  let next = list.firstElementChild;
  for (const item of items) {
    const key = keyOf(item);
    let node = old.get(key);
    old.delete(key);
    if (!node) {
      node = create(item);
      node.dataset.key = key;
    }
    kept.add(node);
    update?.(node, item);
    if (node === next) next = next.nextElementSibling;
    else list.insertBefore(node, next);
  }
  for (const node of [...list.children]) {
    if (!kept.has(node)) node.remove();
  }
}

const plural = (n, one, many = one + "s") => `${n.toLocaleString("en")} ${n === 1 ? one : many}`;

function more(id, shown, total) {
  byId(id).hidden = shown >= total;
  setText(byId(id), `${(total - shown).toLocaleString("en")} more`);
}

// Times are the simulator's: skew is how far its clock is ahead of this one.
let skew = 0;
const now = () => Date.now() + skew;

function span(ms) {
  const s = Math.max(0, Math.ceil(ms / 1000));
  const parts = [[Math.floor(s / 86400), "d"], [Math.floor(s / 3600) % 24, "h"], [Math.floor(s / 60) % 60, "m"], [s % 60, "s"]];
  const from = parts.findIndex(([n]) => n > 0);
  return from < 0 ? "0s" : parts.slice(from, from + 2).map(([n, unit]) => n + unit).join(" ");
}

function ago(time) {
  const s = Math.floor((now() - time) / 1000);
  return s < 5 ? "just now" : `${span(s * 1000).split(" ")[0]} ago`;
}

// ---- credentials ----

const kinds = { pat: "personal access token", oauth: "OAuth access token", entra: "Microsoft Entra ID token", oauth_secret: "OAuth secret" };
const freshFor = 5000;
const deadFor = 8000;
const dead = new Map(); // by key: { item, since, why, after }
let living = [];
let stateIsFirst = true;

const credentialKey = (c) => c.kind + c.id;

function newCredential(c) {
  const text = c.comment || `${kinds[c.kind]} of ${c.owner}`;
  // A long last word is a mark for programs, such as the engine's: it gets less room.
  const [, words, mark] = text.match(/^(.+?)\s+(\S{41,})$/s) ?? [null, text, ""];
  const what = el("p", "what", words);
  what.title = text;
  const about = el("p", "about", el("span", "mark"), el("span", "mono", c.id + "…"));
  if (c.comment) about.append(el("span", "", c.owner), el("span", "", kinds[c.kind]));
  if (mark) about.append(el("span", "mono tail", mark));
  if (c.scopes) about.append(el("span", "", "scopes " + c.scopes));
  const bar = el("span", "bar", el("i"));
  bar.setAttribute("aria-hidden", "true");
  return el("li", "", what, about, el("p", "left", el("span", "time"), bar));
}

function tickCredential(node, c) {
  const mark = node.querySelector(".mark");
  const time = node.querySelector(".time");
  const died = dead.get(credentialKey(c));
  const left = c.expires - now();
  const fresh = !died && now() - c.created < freshFor;
  node.dataset.age = died ? "dead" : fresh ? "fresh" : "";
  node.dataset.left = !c.expires ? "never" : left < 60000 ? "soon" : "";
  mark.className = died ? "mark chip dead" : fresh ? "mark chip fresh" : "mark";
  setText(mark, died ? died.why : fresh ? "new" : "");
  mark.hidden = !mark.textContent;
  setText(time, died ? "after " + span(died.after) : c.expires ? span(left) + " left" : "does not expire");
  const share = !c.expires || died ? 0 : Math.max(0, Math.min(1, left / (c.expires - c.created)));
  node.querySelector("i").style.width = (share * 100).toFixed(2) + "%";
}

function showCredentials(list) {
  if (list) {
    const alive = new Set(list.map(credentialKey));
    // One that fell off the end of a list that is full hasn't died.
    const oldest = list.length > 0 && list.length < total.credentials ? list[list.length - 1].created : 0;
    for (const c of living) {
      if (!alive.has(credentialKey(c)) && c.created >= oldest && !dead.has(credentialKey(c))) bury(c);
    }
    living = list;
    for (const key of alive) dead.delete(key);
  }
  for (const c of living) {
    if (c.expires && c.expires <= now()) bury(c);
  }
  living = living.filter((c) => !dead.has(credentialKey(c)));
  for (const [key, d] of dead) {
    if (now() - d.since > deadFor) dead.delete(key);
  }
  const rows = [...living, ...[...dead.values()].map((d) => d.item)].sort((a, b) => b.created - a.created);
  reconcile(byId("credentials"), rows, credentialKey, newCredential, tickCredential);
}

function bury(c) {
  const expired = c.expires && c.expires <= now() + 500;
  dead.set(credentialKey(c), { item: c, since: now(), why: expired ? "expired" : "revoked", after: (expired ? c.expires : now()) - c.created });
}

// ---- scopes, schemas, principals, groups ----

const openByHand = new Map();

function newBox(key) {
  const details = el("details", "", el("summary", "", el("span", "mono name"), el("span", "dim")), el("div", "inside", el("ul", "keys"), el("p", "dim rest"), el("ul", "acls")));
  details.open = openByHand.get(key) ?? true;
  details.querySelector("summary").addEventListener("click", () => openByHand.set(key, !details.open));
  return el("li", "", details);
}

function showKeys(node, keys, count) {
  reconcile(node.querySelector(".keys"), keys, (k) => k.name,
    (k) => el("li", "", el("span", "mono", k.name), el("span", "dim age")),
    (row, k) => { row.dataset.updated = k.updated; setText(row.lastChild, ago(k.updated)); });
  const rest = node.querySelector(".rest");
  rest.hidden = count > 0 && count <= keys.length;
  setText(rest, count === 0 ? "no secrets" : `${(count - keys.length).toLocaleString("en")} more`);
}

function showScope(node, s) {
  setText(node.querySelector(".name"), s.name);
  setText(node.querySelector("summary .dim"), plural(s.count, "key") + (s.key_vault ? ", Azure Key Vault" : ""));
  showKeys(node, s.keys, s.count);
  const acls = node.querySelector(".acls");
  acls.setAttribute("aria-label", "Permissions");
  reconcile(acls, s.acls, (a) => JSON.stringify([a.principal, a.permission]), (a) => el("li", "", a.principal, el("b", "", a.permission)));
}

function showSchema(node, s) {
  setText(node.querySelector(".name"), s.name);
  setText(node.querySelector("summary .dim"), plural(s.count, "secret"));
  showKeys(node, s.keys, s.count);
}

function newPerson() {
  return el("li", "", el("p", "name", el("span"), el("span", "chip admin")), el("p", "about"));
}

function showPrincipal(node, p) {
  const [name, chip] = node.querySelector(".name").children;
  setText(name, p.name);
  chip.hidden = !p.admin;
  setText(chip, "admin");
  const facts = [p.application_id ? "service principal" : "user"];
  if (p.application_id) facts.push(p.application_id);
  if (p.tokens) facts.push(plural(p.tokens, "token"));
  if (p.oauth_secrets) facts.push(plural(p.oauth_secrets, "OAuth secret"));
  setText(node.querySelector(".about"), facts.join(" · "));
}

function showGroup(node, g) {
  const [name, chip] = node.querySelector(".name").children;
  setText(name, g.name);
  chip.hidden = true;
  const rest = g.count - g.members.length;
  setText(node.querySelector(".about"), g.count === 0 ? "nobody" : g.members.join(", ") + (rest > 0 ? ` and ${rest} more` : ""));
}

// ---- faults ----

function newSwitch(f) {
  const button = el("button");
  button.type = "button";
  button.setAttribute("role", "switch");
  const name = el("p", "name", f.title);
  const text = el("p", "text", f.text + " ", el("span", "hits"));
  name.id = "fault-" + f.id;
  text.id = "fault-text-" + f.id;
  button.setAttribute("aria-labelledby", name.id);
  button.setAttribute("aria-describedby", text.id);
  button.addEventListener("click", () => switchFault(f, button.getAttribute("aria-checked") !== "true"));
  return el("li", "", name, text, button);
}

function showSwitch(node, f) {
  node.querySelector("button").setAttribute("aria-checked", String(f.on));
  node.toggleAttribute("data-on", f.on);
  setText(node.querySelector(".hits"), f.on ? plural(f.hits, "call") + " so far." : "");
}

const showFaults = (list) => reconcile(byId("switches"), list, (f) => f.id, newSwitch, showSwitch);

async function switchFault(f, on) {
  try {
    const answer = await fetch("faults", { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ fault: f.id, on }) });
    if (!answer.ok) throw new Error(await answer.text());
    showFaults((await answer.json()).faults);
  } catch (failure) {
    setText(byId("news"), `${f.title} was not switched: ${failure.message}`);
  }
}

// ---- calls ----

const keptRows = 200;
let calls = []; // the newest first; a gap is { missed }
let lastNumber = 0;
let heldBack = 0; // since the pause
let paused = false;
const names = new Map(); // of principals, by id
const perSecond = new Map(); // by second: { all, failed }

const failed = (c) => c.status === 0 || c.status >= 400;

function newCall(c) {
  if (c.missed) {
    const cell = el("td", "", `${plural(c.missed, "call")} not shown: this page fell behind`);
    cell.colSpan = 5;
    return el("tr", "missed", cell);
  }
  const time = new Date(c.time);
  const clock = [time.getHours(), time.getMinutes(), time.getSeconds()].map((n) => String(n).padStart(2, "0")).join(":");
  const verb = el("span", "verb", c.method);
  // Databricks' older APIs delete by POST.
  if (c.method === "DELETE" || c.path.endsWith("/delete")) verb.dataset.deletes = "";
  else if (c.method !== "GET") verb.dataset.writes = "";
  const status = el("span", "status", c.status === 0 ? "cut" : c.status);
  if (failed(c)) status.dataset.bad = "";
  const answer = el("td", "num", status);
  if (c.fault) answer.prepend(el("span", "by-fault", "fault"));
  return el("tr", "", el("td", "time", clock), el("td", "", verb, el("span", "path", c.path)), el("td", "who"), answer, el("td", "num took", c.took < 1 ? "<1 ms" : c.took.toLocaleString("en") + " ms"));
}

function showCalls() {
  const only = byId("only-failed").checked;
  const shown = calls.filter((c) => !only || c.missed || failed(c));
  reconcile(byId("calls"), shown, (c) => String(c.n), newCall, (row, c) => {
    if (!c.missed) setText(row.cells[2], c.principal ? names.get(c.principal) ?? c.principal : "–");
  });
  byId("calls-empty").hidden = shown.length > 0;
  setText(byId("calls-empty"), only && calls.length > 0 ? "None of the last calls failed." : "No calls yet.");
}

function addCalls({ first, missed, calls: list, total: count }) {
  if (first) {
    // A number that is lower than before is that of another simulator.
    if (count < lastNumber) lastNumber = heldBack = 0;
    calls = [];
    perSecond.clear();
  }
  for (const c of list) {
    const second = Math.floor(c.time / 1000);
    const slot = perSecond.get(second) ?? { all: 0, failed: 0 };
    slot.all++;
    if (failed(c)) slot.failed++;
    perSecond.set(second, slot);
  }
  if (missed) calls.unshift({ n: "gap" + list[0].n, missed });
  calls.unshift(...list.reverse());
  if (paused) heldBack += count - lastNumber;
  else calls.length = Math.min(calls.length, keptRows);
  calls.length = Math.min(calls.length, 5 * keptRows);
  lastNumber = count;
  setText(byId("calls-total"), `${count.toLocaleString("en")} so far`);
  if (paused) setText(byId("pause"), `Resume, ${heldBack.toLocaleString("en")} new`);
  else showCalls();
  showRate();
}

const svg = (name, attributes) => {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
};

function showRate() {
  const last = Math.floor(now() / 1000);
  for (const second of perSecond.keys()) {
    if (second <= last - 60) perSecond.delete(second);
  }
  const slots = [...perSecond.values()];
  setText(byId("n-calls"), slots.reduce((n, s) => n + s.all, 0).toLocaleString("en"));
  setText(byId("n-failed"), slots.reduce((n, s) => n + s.failed, 0).toLocaleString("en"));
  const top = Math.max(4, ...slots.map((s) => s.all));
  const bars = [];
  for (let i = 0; i < 60; i++) {
    const slot = perSecond.get(last - 59 + i);
    const x = i * 4 + 0.5;
    bars.push(svg("rect", { class: "base", x, y: 34.5, width: 3, height: 1.5 }));
    if (!slot) continue;
    const height = (slot.all / top) * 33;
    const bad = (slot.failed / top) * 33;
    bars.push(svg("rect", { class: "fine", x, y: 36 - height, width: 3, height: height - bad }));
    if (bad) bars.push(svg("rect", { class: "failed", x, y: 36 - bad, width: 3, height: bad }));
  }
  byId("spark").replaceChildren(...bars);
}

byId("pause").addEventListener("click", () => {
  paused = !paused;
  heldBack = 0;
  byId("pause").setAttribute("aria-pressed", String(paused));
  setText(byId("pause"), paused ? "Resume" : "Pause");
  if (!paused) calls.length = Math.min(calls.length, keptRows);
  showCalls();
});
byId("only-failed").addEventListener("change", showCalls);

// ---- the whole ----

let total = {};

function showState({ now: theirs, state }) {
  skew = theirs - Date.now();
  total = state.totals;
  setText(byId("workspace"), "id " + state.workspace_id);
  setText(byId("n-credentials"), total.credentials.toLocaleString("en"));
  setText(byId("n-principals"), total.principals.toLocaleString("en"));
  setText(byId("n-scopes"), total.scopes.toLocaleString("en"));
  setText(byId("n-secrets"), (total.secrets + total.uc_secrets).toLocaleString("en"));
  const list = (name) => state[name] ?? [];
  if (stateIsFirst) living = [];
  stateIsFirst = false;
  showCredentials(list("credentials"));
  more("credentials-more", list("credentials").length, total.credentials);
  showFaults(state.faults);
  reconcile(byId("scopes"), list("scopes"), (s) => s.name, (s) => newBox("scope " + s.name), showScope);
  more("scopes-more", list("scopes").length, total.scopes);
  reconcile(byId("schemas"), list("schemas"), (s) => s.name, (s) => newBox("schema " + s.name), showSchema);
  reconcile(byId("principals"), list("principals"), (p) => p.id, newPerson, showPrincipal);
  more("principals-more", list("principals").length, total.principals);
  reconcile(byId("groups"), list("groups"), (g) => g.name, newPerson, showGroup);
  more("groups-more", list("groups").length, total.groups);
  for (const p of list("principals")) names.set(p.id, p.name);
  if (!paused) showCalls();
}

setInterval(() => {
  if (document.hidden) return;
  showCredentials();
  showRate();
  for (const row of document.querySelectorAll(".keys li")) setText(row.lastChild, ago(Number(row.dataset.updated)));
}, 1000);

// ---- the stream ----

let source = null;

function setLink(state, text) {
  byId("link").dataset.state = state;
  setText(byId("link-text"), text);
}

function connect() {
  source = new EventSource("events");
  source.addEventListener("state", (event) => {
    setLink("live", "Live");
    showState(JSON.parse(event.data));
  });
  source.addEventListener("calls", (event) => addCalls(JSON.parse(event.data)));
  source.addEventListener("error", () => {
    setLink("lost", "Not connected");
    stateIsFirst = true;
    // After a refusal a browser doesn't try again by itself.
    if (source?.readyState === EventSource.CLOSED) {
      source = null;
      setTimeout(() => { if (!source && !document.hidden) connect(); }, 3000);
    }
  });
}

// A tab that nobody sees takes none of the few connections that there are.
document.addEventListener("visibilitychange", () => {
  if (document.hidden) {
    source?.close();
    source = null;
    stateIsFirst = true;
  } else if (!source) {
    connect();
  }
});

// ---- theme ----

const themes = ["system", "light", "dark"];

function setTheme(theme) {
  if (theme === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  setText(byId("theme"), "Theme: " + theme);
  try {
    localStorage.setItem("theme", theme);
  } catch {
    // Storage is switched off: the choice lasts as long as the page.
  }
}

const theme = () => document.documentElement.dataset.theme ?? "system";
setText(byId("theme"), "Theme: " + theme());
byId("theme").addEventListener("click", () => setTheme(themes[(themes.indexOf(theme()) + 1) % themes.length]));

setText(byId("host"), location.host);
if (!document.hidden) connect();
