
function make(tag, attributes, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value !== undefined && value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== undefined && child !== ""));
  return made;
}

function draw(tag, attributes, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

// --- words -------------------------------------------------------------------------------------------------

const count = (number) => number.toLocaleString("en");
const few = (items, most) => items.length > most + 1 ? items.slice(0, most) : items;  // "1 more" would save no line
const several = (number, noun, nouns = `${noun}s`) => `${count(number)} ${number === 1 ? noun : nouns}`;
const percent = (odds) => `${Number((odds * 100).toPrecision(4))}%`;
const place = (ip, port) => ip.includes(":") ? `[${ip}]:${port}` : `${ip}:${port}`;
const answers = (frontend) => place(frontend.address || "*", frontend.port);
const RELAY = "kproxy\u2019s relay";
const mono = (text) => make("span", {class: "mono"}, text);

function duration(seconds) {
  const units = [[86400, "day"], [3600, "hour"], [60, "minute"]];
  const [size, noun] = units.find(([each]) => seconds % each === 0 && seconds) ?? [1, "second"];
  return several(seconds / size, noun);
}


// --- everything about one service -------------------------------------------------------------------------

function showDetail(detail, row, name) {
  detail.replaceChildren(make("a", {class: "back", href: "#"}, "\u2190 All services"));
  if (!row) {
    detail.append(make("h2", {}, make("bdi", {}, name)), make("p", {}, "No service of this name is in this dump."));
    return;
  }
  const alone = row.parts.length === 1;
  detail.append(make("h2", {}, ...nameOf(row.name)));
  if (alone) detail.append(make("p", {class: "soft"}, kindOf(row.parts[0])));
  if (row.warnings.length) {
    detail.append(make("ul", {class: "warnings"}, ...row.warnings.slice(0, 20).map((each) => warningItem(each, {linked: false, advised: true}))));
  }
  for (const part of row.parts) {
    if (!alone) detail.append(make("h3", {class: "part"}, kindOf(part)));
    detail.append(...showPart(part));
  }
}

const kindOf = (part) => [part.family, part.protocol, part.variant].filter(Boolean).join(" \u00b7 ");

function showPart(part) {
  const affinity = part.affinity_seconds && `a client keeps its endpoint for ${duration(part.affinity_seconds)}; `
    + "the odds are those of a new client";
  const facts = [["Named by", {objects: "the objects", chain: "nothing: only the hash of its chains is known"}[part.named_by]],
    ["Internal traffic policy", part.internal_policy], ["External traffic policy", part.external_policy],
    ["Only from", (part.source_ranges ?? []).join(", ")], ["Affinity", affinity],
    ["Served by", part.relayed && `${RELAY} (userspace mode), which chooses the endpoint`]].filter(([, value]) => value);
  const listed = make("dl", {}, ...facts.flatMap(([term, value]) => [make("dt", {}, term), make("dd", {}, make("bdi", {}, value))]));
  return [facts.length && listed, figure(part), frontendTable(part), endpointTable(part)].filter(Boolean);
}

function plainTable(title, columns, items) {
  const used = columns.filter(([, value]) => items.some((item) => value(item) !== ""));
  const head = make("tr", {}, ...used.map(([name, , kind]) => make("th", {scope: "col", class: kind === code ? undefined : kind}, name)));
  const body = make("tbody", {});
  const button = make("button", {type: "button"});
  const rest = make("p", {}, button);
  let next = 0;
  const extend = (number) => {
    body.append(...items.slice(next, next + number).map((item) =>
      make("tr", {}, ...used.map(([, value, kind]) => make("td", {class: kind}, make("bdi", {}, String(value(item))))))));
    next += number;
    button.textContent = `Show ${count(Math.max(items.length - next, 0))} more`;
    rest.hidden = next >= items.length;
  };
  button.addEventListener("click", () => extend(500));
  extend(few(items, 25).length);
  const table = make("table", {}, make("caption", {class: "unseen"}, title), make("thead", {}, head), body);
  return make("section", {}, make("h3", {}, title), make("div", {class: "scroll", tabindex: 0, role: "group", "aria-label": title}, table), rest);
}

const line = (each) => each.line ? count(each.line) : "";
const packets = (each) => each.packets >= 0 ? count(each.packets) : "";
const code = "mono";

function frontendTable(part) {
  return part.frontends.length ? plainTable(several(part.frontends.length, "address", "addresses"), [
    ["Address", answers, code], ["Kind", (each) => each.kind], ["Leads to", (each) => goal(part, each)], ["Chain", (each) => each.chain ?? "", code],
    ["Line", line, "number"], ["Packets", packets, "number"]], part.frontends) : undefined;
}

function endpointTable(part) {
  if (!part.endpoints.length) return make("p", {}, "It has no endpoints in these rules.");
  const local = new Map(part.local.map((each) => [place(each.ip, each.port), each]));
  const ofLocal = (each) => local.get(place(each.ip, each.port));
  const isCluster = new Set(part.cluster);
  return plainTable(part.relayed ? RELAY : several(part.endpoints.length, "endpoint"), [
    [part.relayed ? "Address" : "Endpoint", (each) => place(each.ip, each.port), code],
    ["Odds", (each) => isCluster.has(each) && !part.relayed ? percent(each.probability ?? 0) : "", "number"],
    ["Odds of this node", (each) => ofLocal(each) ? percent(ofLocal(each).probability ?? 0) : "", "number"],
    ["Observed", (each) => (each.observed ?? -1) >= 0 ? percent(each.observed) : "", "number"],
    ["Packets", packets, "number"], ["Pod", (each) => each.pod ?? ""], ["Node", (each) => each.node ?? ""],
    ["State", (each) => each.state ?? ""], ["Chain", (each) => each.chain ?? "", code], ["Line", line, "number"],
  ], part.endpoints);
}

function goal(part, each) {
  if (each.fate) return `${each.fate}${each.why ? `: ${each.why}` : ""}`;
  if (part.relayed) return RELAY;
  return each.endpoints === "local" ? "endpoints of this node" : "all endpoints";
}
