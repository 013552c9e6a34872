
// --- the drawing: addresses, chains, endpoints; side by side where there is room, else one below the other ---

const FOLD = 12;  // endpoints that are drawn; one more line stands for all others
const FRONTENDS = 8;  // addresses that are drawn
const [TALL, GAP, LAYER] = [42, 8, 22];  // of a box, between two of a column, between layers
const [ROOM, NARROWEST, WIDEST] = [24, 30, 130];  // inside a box, between columns
const HIGHEST = 130;  // how far down a column may begin, so that what leads to many is seen with the first of them
const [WIDE_BOX, LONGEST, GUTTER] = [252, 420, 46];  // boxes side by side, boxes one below the other, lines beside these
const BUNDLE = 26;  // what all lines of a list are wide together
const MONO = {title: 7.25, sub: 6.65, words: 7.4, odds: 7.6};  // what a character is wide

function figure(part) {
  if (!part.frontends.length && !part.endpoints.length) return undefined;
  const graph = chart(part);
  const holder = make("figure", {});
  let width = 0;
  new ResizeObserver(([entry]) => {
    const now = Math.floor(entry.contentRect.width);
    if (now === width || now < 100) return;
    width = now;
    holder.querySelector("svg")?.remove();
    holder.prepend(picture(graph, width, describe(part)));
  }).observe(holder);
  if (part.endpoints.length > 1) {
    holder.append(make("figcaption", {}, "The wider the line, the likelier the endpoint for a new connection."));
  }
  return holder;
}

function describe(part) {
  const ends = part.endpoints.slice(0, FOLD).map((each) => `${place(each.ip, each.port)} ${percent(each.probability ?? 0)}`);
  const others = part.endpoints.length > FOLD ? ` and ${count(part.endpoints.length - FOLD)} more` : "";
  const starts = few(part.frontends, FRONTENDS).map(answers).join(", ");
  if (part.relayed) return `${starts || "no address"} to ${RELAY} at ${part.endpoints.map((each) => place(each.ip, each.port)).join(", ")}`;
  return `${starts || "no address"} to ${ends.join(", ") || "no endpoint"}${others}`;
}

// Nodes in columns, and edges between them.
function chart(part) {
  const graph = {columns: [[], [], [], [], []], edges: [], byKey: new Map()};
  const drawn = few(part.frontends, FRONTENDS);
  for (const each of drawn) {
    const from = node(graph, 0, `f${graph.columns[0].length}`, {title: answers(each), sub: each.kind});
    if (each.fate) {
      edge(graph, from, ending(graph, each.fate, each.why ?? ""), {kind: "refused"});
    } else {
      lead(graph, part, each, from);
    }
  }
  if (part.frontends.length > drawn.length) {
    node(graph, 0, "more", {words: `${count(part.frontends.length - drawn.length)} more`, sub: "see below", fold: true});
  }
  for (const which of ["cluster", "local"]) if (part[which].length) listNode(graph, part, which);
  endpoints(graph, part);
  const [addresses, gates, lists, ends, endings] = graph.columns;
  const skipping = graph.edges.filter(({from, to}) => gates.length && addresses.includes(from) && lists.includes(to));
  if (skipping.length) {  // chains stand out of the way of lines that pass them by
    gates.lower = skipping.length * (TALL + GAP) + GAP;
    lists.upper = (skipping.length - 1) * (TALL + GAP) / 2;
  }
  graph.columns = [addresses, gates, lists, [...ends, ...endings]].filter((column) => column.length);
  return graph;
}

function node(graph, column, key, content) {
  if (!graph.byKey.has(key)) {
    const made = {odds: [], ...content};
    graph.byKey.set(key, made);
    graph.columns[column].push(made);
  }
  return graph.byKey.get(key);
}

function edge(graph, from, to, {kind = "", odds = 0} = {}) {
  if (!graph.edges.some((each) => each.from === from && each.to === to && each.kind === kind)) {
    graph.edges.push({from, to, kind, odds});
  }
}

const ending = (graph, fate, why) => node(graph, 4, `${fate} ${why}`, {words: fate, sub: why, end: true});

function lead(graph, part, frontend, from) {
  const which = frontend.endpoints === "local" ? "local" : "cluster";
  const to = listNode(graph, part, which);
  const chain = frontend.chain ?? "";
  if (!chain || chain === to.sub) {
    edge(graph, from, to, {kind: which});
    return;
  }
  const words = {"KUBE-EXT": "from outside", "KUBE-XLB": "from outside", "KUBE-FW-": "source ranges"}[chain.slice(0, 8)];
  const gate = node(graph, 1, chain, {words: words ?? "chain", sub: chain});
  edge(graph, from, gate);
  if (words === "source ranges") edge(graph, gate, ending(graph, "dropped", "from other sources"), {kind: "refused"});
  edge(graph, gate, to, {kind: which});
}

function listNode(graph, part, which) {
  const prefix = which === "local" ? "KUBE-SVL-" : "KUBE-SVC-";
  const known = part.frontends.find((each) => !each.fate && (each.chain ?? "").startsWith(prefix));
  const sub = known?.chain ?? (part.hash ? prefix + part.hash : "");
  const words = part.relayed ? "chain" : which === "local" ? "endpoints of this node" : "all endpoints";
  return node(graph, 2, which, {words, sub, which});
}

function endpoints(graph, part) {
  const drawn = few(part.endpoints, FOLD);
  const keys = new Map(drawn.map((each) => [place(each.ip, each.port), each]));
  for (const [key, each] of keys) {
    const state = each.state && each.state !== "ready" ? each.state : "";
    const content = part.relayed ? {words: RELAY, sub: key, which: "relay"}
      : {title: key, sub: [each.pod ?? each.chain ?? "", state].filter(Boolean).join(", ")};
    node(graph, 3, key, content);
  }
  const others = part.endpoints.length - drawn.length;
  if (others) node(graph, 3, "fold", {words: `${count(others)} more`, sub: "see below", fold: true});
  for (const which of ["cluster", "local"]) {
    const list = part[which];
    const folded = list.filter((each) => !keys.has(place(each.ip, each.port)));
    const all = list.filter((each) => keys.has(place(each.ip, each.port)));
    const ends = all.map((each) => [graph.byKey.get(place(each.ip, each.port)), each.probability ?? 0]);
    if (folded.length) ends.push([graph.byKey.get("fold"), folded.reduce((sum, each) => sum + (each.probability ?? 0), 0)]);
    for (const [end, odds] of ends) {
      if (!part.relayed) end.odds.push([percent(odds), which]);
      edge(graph, graph.byKey.get(which), end, {kind: which, odds});
    }
  }
}

// --- where everything stands ------------------------------------------------------------------------------

function broad(each) {
  const odds = each.odds.reduce((sum, [text]) => sum + text.length * MONO.odds + 12, 0);
  const title = each.title ? each.title.length * MONO.title : each.words.length * MONO.words;
  return Math.min(ROOM + Math.max(title + odds, (each.sub ?? "").length * MONO.sub), WIDE_BOX);
}

function picture(graph, width, label) {
  const sizes = graph.columns.map((column) => Math.ceil(Math.max(...column.map(broad))));
  const gap = (width - sizes.reduce((sum, size) => sum + size, 0)) / Math.max(graph.columns.length - 1, 1);
  const beside = gap >= NARROWEST;
  const height = beside ? columns(graph, sizes, Math.min(gap, WIDEST)) : layers(graph, width);
  return draw("svg", {viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label},
    ...lines(graph, beside ? across : around), ...graph.columns.flat().map(box));
}

function columns(graph, sizes, gap) {
  const heights = graph.columns.map((column) => column.length * (TALL + GAP) - GAP);
  const height = Math.max(...heights.map((each, number) => each + (graph.columns[number].lower ?? 0)));
  let left = 0;
  graph.columns.forEach((column, number) => {
    const top = Math.max(Math.min((height - heights[number]) / 2, column.upper ?? HIGHEST), column.lower ?? 0);
    column.forEach((each, row) => Object.assign(each, {x: left, y: top + row * (TALL + GAP), width: sizes[number]}));
    left += sizes[number] + gap;
  });
  return height;
}

function layers(graph, width) {
  let top = 0;
  for (const column of graph.columns) {
    for (const each of column) {
      Object.assign(each, {x: GUTTER, y: top, width: Math.min(width - GUTTER - 1, LONGEST)});
      top += TALL + GAP;
    }
    top += LAYER - GAP;
  }
  return top - LAYER;
}

// All lines of one list leave it as one bundle, in the order in which they arrive.
function lines(graph, way) {
  const begun = new Map();
  return graph.edges.map(({from, to, kind, odds}) => {
    const thick = odds ? Math.max(odds * BUNDLE, 1) : 1.5;
    const above = begun.get(from) ?? 0;
    begun.set(from, above + (odds ? odds * BUNDLE : 0));
    const start = from.y + TALL / 2 + (odds ? above + (odds * BUNDLE) / 2 - BUNDLE / 2 : 0);
    return draw("path", {class: kind, d: way(from, to, start), "stroke-width": thick.toFixed(2)});
  });
}

function across(from, to, start) {
  const [left, right, end] = [from.x + from.width, to.x, to.y + TALL / 2];
  const middle = (left + right) / 2;
  return `M${left} ${start}C${middle} ${start} ${middle} ${end} ${right} ${end}`;
}

function around(from, to, start) {
  const end = to.y + TALL / 2;
  const far = Math.abs(end - start);
  const out = GUTTER - GUTTER * 1.3 * far / (far + 70);
  return `M${GUTTER} ${start}C${out} ${start} ${out} ${end} ${GUTTER} ${end}`;
}

function box(each) {
  const odds = each.odds.map(([text, which]) => [text, which, text.length * MONO.odds + 12]);
  const spent = odds.reduce((sum, [, , size]) => sum + size, 0);
  const title = each.title ?? each.words;
  const middle = each.sub ? 18 : 26;
  const parts = [draw("rect", {x: each.x, y: each.y, width: each.width, height: TALL, rx: 6}),
    label(each, title, each.title ? "address" : "words", middle, (each.width - ROOM - spent) / MONO[each.title ? "title" : "words"])];
  if (each.sub) parts.push(label(each, each.sub, "small", 33, (each.width - ROOM) / MONO.sub));
  let right = each.x + each.width - ROOM / 2;
  for (const [text, which, size] of odds.reverse()) {
    parts.push(draw("text", {x: right, y: each.y + middle, class: `odds ${which}`}, text));
    right -= size;
  }
  const full = draw("title", {}, [title, each.sub].filter(Boolean).join("\n"));
  return draw("g", {class: each.which ?? (each.end ? "end" : each.fold ? "fold" : "")}, full, ...parts);
}

function label(each, text, kind, down, room) {
  const most = Math.max(Math.floor(room + 0.01), 4);
  const half = (most - 1) / 2;
  const fitting = text.length > most ? `${text.slice(0, Math.ceil(half))}\u2026${text.slice(-Math.floor(half))}` : text;
  return draw("text", {x: each.x + ROOM / 2, y: each.y + down, class: kind}, fitting);
}
