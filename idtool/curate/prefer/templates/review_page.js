(function () {
  const about = JSON.parse(document.getElementById("data").textContent);
  const ids = about.pairs.map((pair) => pair.id);
  const KEPT = `idtool-review ${about.run}`;
  const KEYS = {
    ArrowLeft: "left", ArrowRight: "right", t: "tie", d: "defect", s: "skip", " ": "skip",
    u: "undo", Backspace: "undo", k: "back", j: "on",
  };
  const MARKS = { tie: "alike", defect: "defective", skip: "skipped" };
  const find = (id) => document.getElementById(id);
  let place = 0;
  let memory = emptyState();
  let keeps = true;

  function make(name, text, attributes = {}) {
    const node = document.createElement(name);
    if (text !== undefined) node.textContent = text;
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    return node;
  }

  function tell(text) {
    find("notice").textContent = text;
    find("notice").hidden = !text;
  }

  // Several pages of one run share what is kept, so it is read again before each change.
  function load() {
    try {
      const kept = JSON.parse(localStorage.getItem(KEPT) ?? "null");
      if (kept && typeof kept.decisions === "object") memory = { decisions: kept.decisions, order: kept.order ?? [] };
    } catch {
      keeps = false;
    }
    return memory;
  }

  function store(state) {
    memory = state;
    try {
      localStorage.setItem(KEPT, JSON.stringify(state));
    } catch {
      keeps = false;
    }
    if (!keeps) tell("This browser keeps nothing of this page: save your decisions before you close it.");
  }

  function picture(name, label) {
    const data = name ? about.pictures[name] : null;
    return data ? make("img", undefined, { src: data, alt: label }) : make("span", `${label}: cannot be read`, { class: "absent" });
  }

  function number(value) {
    return value === null || value === undefined ? "–" : Number(value.toPrecision(4)).toString();
  }

  function details(pair) {
    const node = find("details");
    node.replaceChildren();
    if (!pair.metrics) return;
    const table = make("table");
    const head = make("tr");
    for (const name of ["", "metric", ...pair.sides.map((side) => `${side} (${side === pair.sides[0] ? "left" : "right"})`), "difference", "threshold"]) {
      head.append(make("th", name));
    }
    table.append(head);
    for (const one of pair.metrics) {
      const row = make("tr");
      row.append(make("th", one.part), make("td", one.metric));
      for (const value of [...pair.sides.map((side) => one[side]), one.delta, one.tau]) row.append(make("td", number(value), { class: "n" }));
      if (one.delta !== null && one.delta < 0) row.className = "against";
      table.append(row);
    }
    node.append(table);
    const facts = [`margin ${number(pair.margin)}`, pair.source, pair.reason];
    if (pair.judge) facts.push(`judge: ${pair.judge}`);
    for (const fact of facts) node.append(make("p", fact));
    for (const flag of pair.flags) node.append(make("p", flag.replaceAll("_", " "), { class: "flag" }));
  }

  function show() {
    const state = load();
    const pair = about.pairs[place];
    const done = countDecided(ids, state);
    const all = Object.keys(state.decisions).length;
    find("bar").setAttribute("aria-valuemax", ids.length);
    find("bar").setAttribute("aria-valuenow", done);
    find("bar").firstElementChild.style.width = `${(100 * done) / ids.length}%`;
    const rest = about.total > ids.length ? `, ${all} of ${about.total} in all` : "";
    find("progress").textContent = done === ids.length
      ? `all ${done} decided${rest}: save your decisions`
      : `${done} of ${ids.length} decided${rest}`;
    document.body.classList.toggle("done", done === ids.length);
    const vote = state.decisions[pair.id];
    find("place").textContent = `Pair ${place + 1} of ${ids.length}${vote && MARKS[vote] ? ` · ${MARKS[vote]}` : ""}`;
    find("prompt").textContent = pair.prompt || "(no prompt)";
    const shown = pair.references.map((name, k) => {
      const figure = make("figure");
      figure.append(picture(name, "reference"), make("figcaption", pair.people[k] || "reference"));
      return figure;
    });
    find("references").replaceChildren(...shown);
    [...find("sides").children].forEach((figure, k) => {
      const label = k === 0 ? "left" : "right";
      figure.firstElementChild.replaceChildren(picture(pair.images[k], label));
      figure.classList.toggle("better", vote === pair.sides[k]);
      const made = pair.methods ? `${pair.sides[k]}, ${pair.methods[k]}${pair.seeds[k] === null ? "" : `, seed ${pair.seeds[k]}`}` : label;
      figure.lastElementChild.textContent = made;
    });
    details(pair);
  }

  function act(key) {
    const state = load();
    if (key === "undo") {
      const before = undo(state, ids);
      if (before.pair === null) return;
      store(before.state);
      place = ids.indexOf(before.pair);
    } else if (key === "back" || key === "on") {
      place = (place + (key === "on" ? 1 : ids.length - 1)) % ids.length;
    } else {
      const vote = voteOf(key, about.pairs[place].sides);
      if (vote === null) return;
      const next = decide(state, ids[place], vote);
      store(next);
      const open = nextOpen(ids, next, place + 1);
      if (open >= 0) place = open;
    }
    show();
  }

  function save() {
    const reviewer = find("reviewer").value.trim();
    const content = toFile(about, load(), reviewer, new Date().toISOString());
    const file = new Blob([JSON.stringify(content, null, 1)], { type: "application/json" });
    const who = reviewer.replace(/[^A-Za-z0-9_-]+/g, "-");
    const link = make("a", undefined, { href: URL.createObjectURL(file), download: `decisions${who ? `-${who}` : ""}.json` });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
    tell(`Saved ${Object.keys(content.decisions).length} decisions. Read them back with: idtool review RUN --decisions FILE`);
  }

  async function open(files) {
    let count = 0;
    for (const file of files) {
      try {
        const told = fromFile(about, JSON.parse(await file.text()));
        store(merged(load(), told));
        count += told.order.length;
      } catch (error) {
        tell(`${file.name}: ${error.message}`);
        return;
      }
    }
    place = Math.max(0, nextOpen(ids, load(), 0));
    tell(`Loaded ${count} decisions.`);
    show();
  }

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target instanceof HTMLInputElement) return;
    const key = KEYS[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (!key) return;
    // A focused button takes the space bar for a click, and the page would scroll.
    event.preventDefault();
    act(key);
  });
  for (const button of document.querySelectorAll("[data-key]")) {
    button.addEventListener("click", () => {
      button.blur();
      act(button.dataset.key);
    });
  }
  find("save").addEventListener("click", save);
  find("load").addEventListener("change", async (event) => {
    await open([...event.target.files]);
    event.target.value = "";
  });
  find("reviewer").addEventListener("change", (event) => {
    try {
      localStorage.setItem("idtool-reviewer", event.target.value);
    } catch {
      keeps = false;
    }
  });
  try {
    find("reviewer").value = localStorage.getItem("idtool-reviewer") ?? "";
  } catch {
    keeps = false;
  }
  find("title").textContent = `Review ${about.name}${about.blind ? " (blind)" : ""}`;
  const name = (page) => `page-${String(page).padStart(3, "0")}.html`;
  if (about.page > 1) find("pages").append(make("a", "‹ previous page", { href: name(about.page - 1) }));
  if (about.page > 1 || !about.last) find("pages").append(make("span", `page ${about.page}`));
  if (!about.last) find("pages").append(make("a", "next page ›", { href: name(about.page + 1) }));
  place = Math.max(0, nextOpen(ids, load(), 0));
  if (!keeps) tell("This browser keeps nothing of this page: save your decisions before you close it.");
  show();
})();
