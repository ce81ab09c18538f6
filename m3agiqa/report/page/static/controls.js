// What stands beside the list: the outcome, the sliders with their histograms, the filters.
"use strict";

const Controls = (() => {
  /** The sliders of every aspect that the policy judges; `onchange(aspect, thresholds)` is called while one moves. */
  function sliders(box, items, policy, onchange) {
    const panels = Object.fromEntries(Data.about.aspects.map((aspect) => [aspect, panel(aspect, items, policy, onchange)]));
    box.replaceChildren(...Object.values(panels).map(({ node }) => node));
    return (now) => {
      for (const [aspect, { show }] of Object.entries(panels)) show(now.aspects[aspect]);
    };
  }

  function panel(aspect, items, policy, onchange) {
    const scores = items.map((item) => item.scores[aspect]?.[0]).filter((score) => score !== undefined);
    const chart = Chart.create(aspect, scores);
    const judged = policy.aspects[aspect] !== undefined;
    const inputs = judged ? { reject_below: slider(aspect, "Reject below"), review_below: slider(aspect, "Review below") } : {};
    const median = scores.length ? `median ${Chart.quartiles(scores)[1].toFixed(2)}` : "no scores";
    const node = el("section", { class: "aspect", "aria-label": aspect },
      el("div", { class: "between" }, el("h3", {}, aspect), el("span", { class: "quiet" }, judged ? median : `${median}, not judged`)),
      chart.node, ...Object.values(inputs).map(({ row }) => row));
    for (const [name, { input }] of Object.entries(inputs)) {
      input.addEventListener("input", () => onchange(aspect, ordered(inputs, name)));
    }
    const show = (thresholds) => {
      chart.colour(thresholds);
      for (const [name, { input, output }] of Object.entries(inputs)) {
        input.value = thresholds[name];
        output.textContent = thresholds[name].toFixed(2);
      }
    };
    return { node, show };
  }

  /** Both values; the one that was moved pushes the other along. */
  function ordered(inputs, moved) {
    const reject = inputs.reject_below.input.valueAsNumber, review = inputs.review_below.input.valueAsNumber;
    return moved === "reject_below"
      ? { reject_below: reject, review_below: Math.max(reject, review) }
      : { reject_below: Math.min(reject, review), review_below: review };
  }

  function slider(aspect, text) {
    const kind = text.startsWith("Reject") ? "reject" : "review";
    const input = el("input", { type: "range", min: 0, max: 5, step: 0.01, class: kind, "aria-label": `${aspect}: ${text.toLowerCase()}` });
    const output = el("span", { class: "value" });
    return { input, output, row: el("div", { class: "slider" }, el("div", { class: "between" }, el("span", {}, text), output), input) };
  }

  /** How many are accepted, reviewed and rejected, and how many go from each to another. */
  function outcome(box, items, state, onfilter) {
    const flows = Decide.flows(items);
    const totals = Decide.DECISIONS.map((to) => [to, sum(Decide.DECISIONS.map((from) => flows[from][to])), sum(Object.values(flows[to]))]);
    const share = el("div", { class: "share", "aria-hidden": "true" });
    for (const [decision, now] of totals) share.append(part(decision, now / Math.max(1, items.length)));
    const pairs = Decide.DECISIONS.flatMap((from) => Decide.DECISIONS.filter((to) => to !== from && flows[from][to]).map((to) => [from, to, flows[from][to]]));
    box.replaceChildren(
      el("div", { class: "totals", role: "group", "aria-label": "Decisions" }, ...totals.map(([decision, now, before]) => total(decision, now, before, state, onfilter))),
      share,
      el("div", { class: "flips", role: "group", "aria-label": "Changed decisions" }, ...flips(pairs, state, onfilter)));
  }

  const sum = (numbers) => numbers.reduce((total, number) => total + number, 0);

  function part(decision, width) {
    const node = el("span", { class: `fill ${decision}` });
    node.style.width = `${100 * width}%`;
    return node;
  }

  function total(decision, now, before, state, onfilter) {
    const change = now - before;
    const sign = change > 0 ? "+" : "−";
    return el("button", { type: "button", class: `total ${decision}`, "aria-pressed": String(state.decision === decision), onclick: () => onfilter({ decision: state.decision === decision ? "" : decision }) },
      el("span", { class: "number" }, whole(now)), el("span", {}, decision),
      el("span", { class: "change" }, change ? `${sign}${whole(Math.abs(change))}` : ""));
  }

  function flips(pairs, state, onfilter) {
    if (!pairs.length) return [el("span", { class: "quiet" }, "No decision changes.")];
    const all = [["any", `${whole(sum(pairs.map(([, , count]) => count)))} change`], ...pairs.map(([from, to, count]) => [`${from}>${to}`, `${whole(count)} ${from} → ${to}`])];
    return all.map(([value, text]) => el("button", { type: "button", "aria-pressed": String(state.flips === value), onclick: () => onfilter({ flips: state.flips === value ? "" : value }) }, text));
  }

  /** The form of filters; `onfilter(change)` is called with what a person changed. */
  function filters(form, search, items, onfilter) {
    const models = [...new Set(items.map((item) => item.model))].filter(Boolean).sort();
    const fields = {
      q: search,
      decision: select([["", "all"], ...Decide.DECISIONS.map((decision) => [decision, decision])]),
      aspect: select([["", "any aspect"], ...Data.about.aspects.map((aspect) => [aspect, aspect])]),
      min: number(), max: number(),
      label: select([["", "all"], ["none", "without label"], ["any", "with label"], ["accept", "accept"], ["reject", "reject"], ["skip", "skip"], ["against", "against the decision"]]),
      model: select([["", "all"], ...models.map((model) => [model, cut(model, 60)])]),
    };
    for (const [name, field] of Object.entries(fields)) {
      field.addEventListener("input", () => {
        if (field.type !== "number" || field.value !== "") onfilter({ [name]: field.type === "number" ? field.valueAsNumber : field.value });
      });
    }
    form.addEventListener("submit", (event) => event.preventDefault());
    form.replaceChildren(
      row("Decision", fields.decision), row("Score of", fields.aspect),
      el("div", { class: "pair" }, row("from", fields.min), row("to", fields.max)),
      row("Label", fields.label), models.length > 1 ? row("Model", fields.model) : "");
    return (state) => {
      for (const [name, field] of Object.entries(fields)) if (field !== document.activeElement) field.value = state[name];
    };
  }

  const row = (text, field) => el("label", { class: "field" }, el("span", {}, text), field);
  const number = () => el("input", { type: "number", min: 0, max: 5, step: 0.05 });
  const select = (options) => el("select", {}, ...options.map(([value, text]) => el("option", { value }, text)));

  function sorts(field, onfilter) {
    const scores = ["lowest", ...Data.about.aspects].flatMap((name) => {
      const text = name === "lowest" ? "lowest score" : name;
      return [[`${name}-up`, `${text}, low first`], [`${name}-down`, `${text}, high first`]];
    });
    field.replaceChildren(...select([["order", "as given"], ["time-down", "newest first"], ["decision-down", "rejected first"], ...scores]).children);
    field.addEventListener("input", () => onfilter({ sort: field.value }));
  }

  /** The codes of failures, each with its number. */
  function codes(box, items, state, onfilter) {
    box.hidden = state.view !== "failures";
    const counts = new Map();
    for (const { failure } of items) if (failure) counts.set(failure[0], (counts.get(failure[0]) ?? 0) + 1);
    const ordered = [...counts].sort(([, one], [, other]) => other - one);
    box.replaceChildren(...ordered.map(([code, count]) => el("button", {
      type: "button", "aria-pressed": String(state.code === code), onclick: () => onfilter({ code: state.code === code ? "" : code }),
    }, `${cut(code, 60)} `, el("span", { class: "count" }, whole(count)))));
  }

  /** The policy as its file would say it, with the thresholds of now; its name is for a person to choose. */
  function policyFile(policy) {
    const { aspects, name, version, digest, ...others } = policy;
    const lines = Object.entries(aspects).map(([aspect, { reject_below, review_below }]) => `  ${aspect}: {reject_below: ${reject_below}, review_below: ${review_below}}`);
    const rest = Object.entries(others).filter(([, value]) => value !== null && value !== 0).map(([key, value]) => `${key}: ${value}`);
    return [`# ${name}, version ${version}, with other thresholds`, "name: NAME", "version: 1", "aspects:", ...lines, ...rest].join("\n");
  }

  return { policyFile, sliders, outcome, filters, sorts, codes };
})();
