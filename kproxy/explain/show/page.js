
// What a dump says comes in as JSON and goes out as text nodes: nothing here makes HTML of a string.
const data = JSON.parse(document.getElementById("data").textContent);
const [facts, warnings, list, query, found, rows, more, detail] = ["facts", "warnings", "list", "query", "found", "rows",
  "more", "detail"].map((id) => document.getElementById(id));
const PAGE = 100;  // rows that are made at once
const PRINTED = 3000;  // rows on paper

// --- the services: one row for each name, whatever families and variants it is in -------------------------

function group() {
  const byName = new Map();
  for (const part of data.services ?? []) {
    part.frontends ??= [];
    part.cluster ??= [];
    part.local ??= [];
    const known = new Set(part.cluster.map((each) => place(each.ip, each.port)));
    part.endpoints = [...part.cluster, ...part.local.filter((each) => !known.has(place(each.ip, each.port)))];
    if (!byName.has(part.name)) byName.set(part.name, {name: part.name, parts: [], warnings: []});
    byName.get(part.name).parts.push(part);
  }
  for (const warning of data.warnings ?? []) byName.get(warning.service)?.warnings.push(warning);
  return byName;
}

const services = group();
const all = [...services.values()];
for (const row of all) {
  row.frontends = row.parts.flatMap((part) => part.frontends);
  row.endpoints = row.parts.reduce((sum, part) => sum + part.endpoints.length, 0);
  row.protocols = [...new Set(row.parts.map((part) => part.protocol))].join(", ");
  row.policy = [...new Set(row.parts.flatMap(policies))].join(", ");
  row.packets = row.frontends.reduce((sum, each) => sum + Math.max(each.packets ?? 0, 0), 0);
  row.words = words(row);
}
const counted = (data.dumps ?? []).some((dump) => dump.counters);

function policies(part) {
  const said = [];
  if (part.internal_policy === "Local") said.push("internal Local");
  if (part.external_policy === "Local") said.push("external Local");
  if (part.affinity_seconds) said.push(`affinity ${duration(part.affinity_seconds)}`);
  if (part.source_ranges) said.push("source ranges");
  if (part.relayed) said.push("relayed");
  return said;
}

// Everything by which a row can be found, each in a line of its own; the name and its addresses first.
function words(row) {
  const said = new Set([row.name]);
  for (const part of row.parts) {
    const suffix = `/${part.protocol}`;
    for (const each of part.frontends) {
      said.add(answers(each) + suffix).add(`${each.kind} ${each.port}`).add(each.chain ?? "");
      if (each.fate) said.add(`${each.fate} ${each.why ?? ""}`);
    }
    for (const each of part.endpoints) {
      said.add(place(each.ip, each.port)).add(each.pod ?? "").add(each.node ?? "").add(each.chain ?? "");
    }
    said.add(part.family).add(part.variant ?? "").add(part.hash ?? "");
    (part.source_ranges ?? []).forEach((range) => said.add(range));
    policies(part).forEach((each) => said.add(each));
  }
  said.delete("");
  return `\n${[...said].join("\n").toLowerCase()}\n`;
}

// --- search and order -------------------------------------------------------------------------------------

const order = {by: "name", descending: false};
const collator = new Intl.Collator("en", {numeric: true});
let shown = all;
let made = 0;

// Numbers in addresses by their size: 10.0.0.9 comes before 10.0.0.10. Node ports come last.
function addressKey(row) {
  const first = row.frontends.find((each) => each.address) ?? row.frontends[0];
  return first ? `${first.address ? (first.address.includes(":") ? 1 : 0) : 2} ${answers(first)}` : "3";
}

const KEYS = {
  name: (row) => row.name,
  address: addressKey,
  policy: (row) => row.policy || "\uffff",
  endpoints: (row) => row.endpoints,
  packets: (row) => row.packets,
};

function sorted(list) {
  const key = KEYS[order.by];
  const keyed = list.map((row) => [key(row), row]);
  const sign = order.descending ? -1 : 1;
  keyed.sort(([a], [b]) => sign * (typeof a === "number" ? a - b : collator.compare(a, b)));
  return keyed.map(([, row]) => row);
}

let inOrder = sorted(all);

// An address that is asked for exactly comes before one that begins with it, and a name before what it leads to.
function ranked(matching, asked) {
  const exact = ["\n", ":", "/"].map((end) => `\n${asked}${end}`);
  const ranks = [[], [], []];
  for (const row of matching) {
    const named = row.words.indexOf("\n", 1) > row.words.indexOf(asked);  // the name is the first line
    ranks[exact.some((each) => row.words.includes(each)) ? 0 : named ? 1 : 2].push(row);
  }
  return ranks.flat();
}

function search() {
  const asked = query.value.toLowerCase().split(/\s+/).filter(Boolean);
  shown = asked.length ? inOrder.filter((row) => asked.every((word) => row.words.includes(word))) : inOrder;
  if (asked.length === 1) shown = ranked(shown, asked[0]);
  const total = several(all.length, "service port");
  found.textContent = asked.length ? `${count(shown.length)} of ${total}` : total;
  rows.replaceChildren();
  made = 0;
  extend(PAGE);
}

function extend(number) {
  const asked = query.value.toLowerCase().split(/\s+/).filter(Boolean);
  rows.append(...shown.slice(made, made + number).map((row) => tableRow(row, asked)));
  made = Math.min(made + number, shown.length);
  more.hidden = made >= shown.length;
  more.firstElementChild.textContent = `${count(shown.length - made)} more`;
}

function tableRow(row, asked) {
  const link = make("a", {href: address(row.name)}, ...nameOf(row.name));
  const why = reason(row, asked);
  const failing = row.frontends.find((each) => each.fate);
  const relayed = row.parts.some((part) => part.relayed);
  const ends = relayed ? "relay" : count(row.endpoints);
  const number = row.endpoints || !failing ? ends : make("span", {class: "bad"}, failing.fate);
  const drawn = make("tr", {},
    make("td", {}, link, " ", make("span", {class: "soft"}, row.protocols), dialled(row), why),
    make("td", {class: "wide"}, ...few(row.frontends, 2).map((each) => mono(answers(each))), rest(row)),
    make("td", {class: "wide soft"}, row.policy),
    make("td", {class: "number"}, number),
    make("td", {class: "wide number counted", hidden: !counted}, count(row.packets)));
  drawn.addEventListener("click", (event) => { if (!event.target.closest("a")) location.hash = link.hash; });
  markChosen(drawn);
  return drawn;
}

const rest = (row) => row.frontends.length > 3
  ? make("span", {class: "soft"}, ` and ${count(row.frontends.length - 2)} more`) : "";

// Where there is no room for a column of addresses.
const dialled = (row) => row.frontends.length
  ? make("span", {class: "narrow soft mono"}, answers(row.frontends[0])) : "";

function nameOf(name) {
  const cut = name.indexOf("/") + 1;
  const [before, after] = [name.slice(0, cut), name.slice(cut)];
  return [make("bdi", {}, make("span", {class: "soft"}, ...broken(before)), make("wbr", {}), make("b", {}, ...broken(after)))];
}

// A name whose line ends behind a / : or - and not amid a word, unless that is very long.
function broken(name) {
  return name.split(/(?<=[/:-])/).flatMap((word) => [make("wbr", {}), word.length > 24 ? word : make("span", {class: "whole"}, word)]);
}

// Where a row was found by something that it does not show, that is shown.
function reason(row, asked) {
  const visible = `${row.name} ${row.protocols}`.toLowerCase();
  const hidden = asked.filter((word) => !visible.includes(word));
  const lines = hidden.map((word) => row.words.split("\n").find((line) => line.includes(word))).filter(Boolean);
  return lines.length ? make("span", {class: "why"}, make("bdi", {}, [...new Set(lines)].join(", "))) : "";
}

// --- warnings ---------------------------------------------------------------------------------------------

const KIND = {error: "error", warning: "warn", note: "note"};

function warningItem(warning, {linked, advised}) {
  const where = warning.line ? make("span", {class: "soft"}, ` (line ${count(warning.line)})`) : "";
  const text = [make("p", {}, make("bdi", {}, ...(linked ? withLink(warning) : [warning.message])), where)];
  if (warning.remedy && advised) text.push(make("p", {class: "soft"}, make("bdi", {}, warning.remedy)));
  return make("li", {class: `warning ${KIND[warning.severity] ?? "note"}`},
    make("span", {}, warning.severity), make("div", {}, ...text));
}

// Its sentence, in which the service's name leads to it.
function withLink({message, service}) {
  if (!services.has(service)) return [message];
  const link = make("a", {href: address(service)}, ...broken(service));
  const [before, ...after] = message.split(service);
  return after.length ? [before, link, after.join(service)] : [message, " ", link];
}

// The first ones of each kind, and the others when asked for: a dump can have thousands of one kind.
function showWarnings() {
  const worst = Object.keys(KIND);
  const said = (data.warnings ?? []).sort((a, b) => worst.indexOf(a.severity) - worst.indexOf(b.severity));
  const phone = matchMedia("(max-width: 40rem)").matches;
  const by = new Map();
  for (const each of said) {
    if (!by.has(each.code)) by.set(each.code, []);
    by.get(each.code).push(each);
  }
  const items = make("ul", {});
  for (const same of by.values()) {
    const first = few(same, phone ? 1 : 3);
    const one = same.every((each) => each.remedy === same[0].remedy);
    items.append(...first.map((each, at) => warningItem(each, {linked: true, advised: !one || at === first.length - 1})));
    if (same.length > first.length) items.append(moreItem(same.slice(first.length), !one));
  }
  const counts = worst.map((kind) => [said.filter((each) => each.severity === kind).length, kind]);
  const title = counts.filter(([number]) => number).map(([number, kind]) => several(number, kind)).join(", ");
  const open = said.some((each) => each.severity === "error") || (!phone && said.some((each) => each.severity !== "note"));
  warnings.append(make("details", {open}, make("summary", {}, title), items));
  warnings.hidden = said.length === 0;
}

function moreItem(others, advised) {
  const button = make("button", {type: "button"}, `${count(others.length)} more of this kind`);
  const item = make("li", {class: "warning"}, make("span", {}), make("div", {}, button));
  button.addEventListener("click", () => {
    item.before(...others.splice(0, 200).map((each) => warningItem(each, {linked: true, advised})));
    button.textContent = `${count(others.length)} more of this kind`;
    if (!others.length) item.remove();
  });
  return item;
}

// --- one service ------------------------------------------------------------------------------------------

const address = (name) => `#${encodeURIComponent(name).replaceAll("%2F", "/").replaceAll("%3A", ":")}`;
let chosen = "";

function asked() {
  try {
    return decodeURIComponent(location.hash.slice(1));
  } catch {
    return location.hash.slice(1);
  }
}

function choose() {
  const before = chosen;
  if (asked() === before) return;
  chosen = asked();
  document.body.classList.toggle("open", chosen !== "");
  document.title = chosen ? `${chosen} \u2013 ${data.title}` : data.title;
  detail.hidden = chosen === "";
  for (const row of rows.children) markChosen(row);
  if (!chosen) {
    focusOn(before);
    return;
  }
  showDetail(detail, services.get(chosen), chosen);
  detail.scrollTop = 0;
  if (!beside.matches) {
    window.scrollTo(0, 0);
    detail.focus();
  }
}

function markChosen(row) {
  const link = row.querySelector("a");
  const same = link.hash === address(chosen);
  row.classList.toggle("chosen", same);
  if (same) link.setAttribute("aria-current", "true");
  else link.removeAttribute("aria-current");
}

function focusOn(name) {
  const place = shown.findIndex((row) => row.name === name);
  if (place >= made) extend(place - made + PAGE);
  (rows.children[place]?.querySelector("a") ?? query).focus();
}

// --- keys -------------------------------------------------------------------------------------------------

const beside = matchMedia("(min-width: 64rem)");

function step(by) {
  const row = document.activeElement.closest("#rows tr");
  const from = row ? [...rows.children].indexOf(row) : -1;
  if (from + by >= made) extend(PAGE);
  const target = rows.children[from + by];
  if (!target) {
    if (from + by < 0) query.focus();
    return;
  }
  target.querySelector("a").focus();
  if (chosen && beside.matches) location.replace(target.querySelector("a").hash);
}

function leave() {
  if (document.activeElement === query && query.value) {
    query.value = "";
    search();
  } else if (chosen) {
    history.pushState(null, "", location.pathname + location.search);
    choose();
  } else {
    query.focus();
  }
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const typing = document.activeElement === query;
  const inList = typing || document.activeElement === document.body || document.activeElement.closest("#rows");
  const deeds = {
    "/": () => typing || (beside.matches || !chosen || leave(), query.focus(), query.select()),
    Escape: leave,
    ArrowDown: () => inList && step(1),
    ArrowUp: () => inList && step(-1),
    Enter: () => typing && shown.length && (location.hash = address(shown[0].name)),
  };
  if (!(event.key in deeds) || (event.key === "/" && typing) || (event.key === "Enter" && !typing)) return;
  if (event.key.startsWith("Arrow") && !inList) return;
  event.preventDefault();
  deeds[event.key]();
});

// --- the beginning ----------------------------------------------------------------------------------------

for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const by = button.dataset.sort;
    const largestFirst = by === "endpoints" || by === "packets";
    order.descending = order.by === by ? !order.descending : largestFirst;
    order.by = by;
    document.querySelector("[aria-sort]").removeAttribute("aria-sort");
    button.parentElement.setAttribute("aria-sort", order.descending ? "descending" : "ascending");
    inOrder = sorted(all);
    search();
  });
}
query.addEventListener("input", search);
more.firstElementChild.addEventListener("click", () => extend(PAGE));
new IntersectionObserver((entries) => entries.some((each) => each.isIntersecting) && !more.hidden && extend(PAGE),
  {rootMargin: "600px"}).observe(more);
window.addEventListener("beforeprint", () => extend(Math.max(PRINTED - made, 0)));
window.addEventListener("hashchange", choose);
window.addEventListener("popstate", choose);

facts.append(...data.headlines.map((headline) => make("p", {}, headline)));
document.querySelectorAll(".counted").forEach((each) => { each.hidden = !counted; });
document.querySelector("main").hidden = false;
document.getElementById("keys").hidden = false;
showWarnings();
search();
choose();
