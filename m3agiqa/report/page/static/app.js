// Puts the parts together: one state, which the URL keeps; every change of it comes through `change`.
"use strict";

(() => {
  const { about, items } = Data;
  const store = Labels.storage(`m3agiqa labels of ${location.pathname}`);
  const app = {
    state: Filter.fromHash(location.hash.slice(1), about.aspects),
    shown: [],
    labels: Labels.create(items, about.policy.digest, store),
    get policy() {
      return { ...about.policy, aspects: { ...about.policy.aspects, ...known(this.state.thresholds) } };
    },
    open, label, undo, step,
    get proposing() {
      return proposing;
    },
  };
  // A page's address may name an aspect that its policy does not judge.
  const known = (thresholds) => Object.fromEntries(Object.entries(thresholds).filter(([aspect]) => aspect in about.policy.aspects));
  let proposing = false;
  const detail = Detail.create($("detail"), app);
  app.list = List.create($("list"), () => app.shown.length, (index) => Card.row(app.shown[index], index, app));
  const showSliders = Controls.sliders($("thresholds"), items, about.policy, (aspect, thresholds) =>
    change({ thresholds: { ...app.state.thresholds, [aspect]: thresholds } }));
  const showFilters = Controls.filters($("filters"), $("search"), items, change);
  Controls.sorts($("sort"), change);

  /** Take a change of the state; what it leads to is shown with the next frame, however many changes come before. */
  let waits = 0;
  function change(part) {
    Object.assign(app.state, part);
    waits ||= requestAnimationFrame(() => {
      waits = 0;
      show();
    });
  }

  function show() {
    const { state } = app;
    Decide.all(items, app.policy);
    app.shown = Filter.apply(items, state, app.labels.get);
    showSliders(app.policy);
    showFilters(state);
    Controls.outcome($("outcome"), items, state, change);
    Controls.codes($("codes"), items, state, change);
    showPressed();
    showNumbers();
    app.list.refresh();
    if (detail.item()) detail.show(detail.item(), heading(detail.item()));
    history.replaceState(null, "", `#${Filter.toHash(state)}`);
  }

  function showPressed() {
    const { state } = app;
    for (const view of ["scored", "failures"]) $(`view-${view}`).setAttribute("aria-pressed", String(state.view === view));
    $("blind").checked = state.blind;
    $("sort").value = state.sort;
    $("policy-file").textContent = Controls.policyFile(app.policy);
    $("reset").hidden = Object.keys(state.thresholds).length === 0;
  }

  function showNumbers() {
    const failed = items.filter((item) => item.failure).length;
    $("view-scored").textContent = `Scored ${whole(items.length - failed)}`;
    $("view-failures").textContent = `Failures ${whole(failed)}`;
    const all = app.state.view === "failures" ? failed : items.length - failed;
    $("shown").textContent = app.shown.length === all ? counted(all, "image") : `${whole(app.shown.length)} of ${counted(all, "image")}`;
    $("empty").hidden = app.shown.length > 0;
    $("empty").textContent = all ? "No image is like this. Loosen a filter." : "There are none.";
    showProgress();
  }

  function showProgress() {
    const { labels } = app;
    $("progress").textContent = labels.planned
      ? `${whole(labels.reached())} of ${whole(labels.planned)} proposed labelled${store.kept ? "" : ", kept only while this page is open"}`
      : "Nothing to propose: no image can be looked at";
    $("next").disabled = !labels.next();
    $("export").disabled = labels.size() === 0;
  }

  const heading = (item) => (proposing && item.plan ? `Proposed ${whole(item.plan[2] + 1)} of ${whole(app.labels.planned)}` : `Image ${whole(app.shown.indexOf(item) + 1)} of ${whole(app.shown.length)}`);

  function open(index) {
    proposing = false;
    app.list.move(index, false);
    detail.show(app.shown[index], heading(app.shown[index]));
  }

  function propose() {
    const item = app.labels.next();
    proposing = item !== undefined;
    if (item) detail.show(item, heading(item));
    else detail.close();
  }

  /** Label an image and go on to the next: of those proposed, or of the list. */
  function label(item, word) {
    app.labels.set(item.id, word);
    showProgress();
    if (proposing) propose();
    else if (detail.item()) step(1);
    app.list.refresh();
    if (!detail.item()) app.list.move(app.shown.indexOf(item) + 1);
  }

  function undo() {
    const id = app.labels.undo();
    showProgress();
    app.list.refresh();
    const item = id !== undefined && items.find((each) => each.id === id);
    if (item && detail.item()) detail.show(item, heading(item));
    else if (item) app.list.move(app.shown.indexOf(item));
  }

  /** Show the image before or after the one that is open, or make it the current one of the list. */
  function step(by) {
    const shown = detail.item();
    if (proposing) return;
    const index = (shown ? app.shown.indexOf(shown) : app.list.current()) + by;
    if (index < 0 || index >= app.shown.length) return;
    if (shown) open(index);
    else app.list.move(index);
  }

  function save() {
    const url = URL.createObjectURL(new Blob([app.labels.toCsv()], { type: "text/csv" }));
    el("a", { href: url, download: "labels.csv" }).click();
    setTimeout(() => URL.revokeObjectURL(url), 1000);
  }

  async function load() {
    const [file] = $("file").files;
    if (!file) return;
    const said = app.labels.fromCsv(await file.text());
    $("file").value = "";
    show();
    $("progress").textContent = said;
  }

  const KEYS = {
    n: propose, u: undo, j: () => step(1), k: () => step(-1), ArrowDown: () => step(1), ArrowUp: () => step(-1),
    a: () => labelCurrent("accept"), r: () => labelCurrent("reject"), s: () => labelCurrent("skip"),
    b: () => change({ blind: !app.state.blind }), "?": () => $("keys").showModal(),
    "/": () => $("search").focus(),
  };

  function labelCurrent(word) {
    const item = detail.item() ?? app.shown[app.list.current()];
    if (item) label(item, word);
  }

  function onkey(event) {
    const { target } = event;
    const writes = target.matches("select, textarea, input:not([type=checkbox], [type=range])");
    const moves = target.matches("input[type=range], .text") && event.key.startsWith("Arrow");
    if (writes || moves || event.ctrlKey || event.metaKey || event.altKey || $("keys").open || !(event.key in KEYS)) return;
    event.preventDefault();
    KEYS[event.key]();
  }

  function facts() {
    const policies = [...new Set(items.map((item) => item.policy))].filter(Boolean);
    const ours = `${about.policy.name}@${about.policy.digest}`;
    const others = policies.filter((policy) => policy !== ours);
    const decided = others.length ? `; ${cut(others.slice(0, 3).join(", "), 120)} decided${others.length > 3 ? ", and others" : ""}` : "";
    return `${counted(items.length, "image")}, thresholds of ${ours}${decided}; sample drawn with seed ${about.seed}`;
  }

  function start() {
    document.title = $("title").textContent = about.title;
    $("facts").textContent = facts();
    const wide = matchMedia("(min-width: 60rem)").matches;
    for (const panel of document.querySelectorAll("aside > details")) panel.open = wide;
    $("next").addEventListener("click", propose);
    $("export").addEventListener("click", save);
    $("import").addEventListener("click", () => $("file").click());
    $("file").addEventListener("change", load);
    $("help").addEventListener("click", () => $("keys").showModal());
    $("blind").addEventListener("change", () => change({ blind: $("blind").checked }));
    $("reset").addEventListener("click", () => change({ thresholds: {} }));
    for (const view of ["scored", "failures"]) $(`view-${view}`).addEventListener("click", () => change({ view, code: "" }));
    $("detail").addEventListener("close", () => {
      proposing = false;
      app.list.move(app.list.current());
    });
    document.addEventListener("keydown", onkey);
    addEventListener("hashchange", () => {
      app.state = Filter.fromHash(location.hash.slice(1), about.aspects);
      show();
    });
    show();
  }

  start();
})();
