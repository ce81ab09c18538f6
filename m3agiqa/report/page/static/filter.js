// Which images are shown, in what order; and the part of the URL after # that keeps it.
"use strict";

const Filter = (() => {
  const SEVERITY = { accept: 0, review: 1, reject: 2 };
  const WORDS = {
    view: ["scored", "failures"],
    decision: ["", "accept", "review", "reject"],
    label: ["", "none", "any", "accept", "reject", "skip", "against"],
  };
  const TEXTS = ["model", "code", "q", "flips", "sort", "aspect"];

  const initial = () => ({
    view: "scored", decision: "", aspect: "", min: 0, max: 5, model: "", code: "", q: "", label: "", flips: "",
    sort: "order", blind: false, thresholds: {},
  });

  /** A state as the part of a URL after #; what is as it was at the beginning is left out. */
  function toHash(state) {
    const found = new URLSearchParams();
    const first = initial();
    for (const name of [...Object.keys(WORDS), ...TEXTS, "min", "max"]) {
      if (state[name] !== first[name]) found.set(name, state[name]);
    }
    if (state.blind) found.set("blind", "1");
    for (const [aspect, { reject_below, review_below }] of Object.entries(state.thresholds)) {
      found.set(`t.${aspect}`, `${reject_below},${review_below}`);
    }
    return found.toString();
  }

  /** The state that a hash keeps; what it does not keep, or what makes no sense, is as at the beginning. */
  function fromHash(hash, aspects) {
    const given = new URLSearchParams(hash);
    const state = initial();
    for (const [name, words] of Object.entries(WORDS)) if (words.includes(given.get(name))) state[name] = given.get(name);
    for (const name of TEXTS) if (given.has(name)) state[name] = given.get(name);
    if (!aspects.includes(state.aspect)) state.aspect = "";
    for (const name of ["min", "max"]) state[name] = given.has(name) ? score(given.get(name), state[name]) : state[name];
    state.blind = given.get("blind") === "1";
    for (const aspect of aspects) {
      const [reject, review] = (given.get(`t.${aspect}`) ?? "").split(",").map((text) => score(text, -1));
      if (reject >= 0 && review >= reject) state.thresholds[aspect] = { reject_below: reject, review_below: review };
    }
    return state;
  }

  /** A score or threshold in a text; `otherwise` where there is none from 0 to 5. */
  function score(text, otherwise) {
    const number = Number(text);
    return text.trim() !== "" && number >= 0 && number <= 5 ? number : otherwise;
  }

  function has(item, words) {
    const texts = [item.id, item.prompt ?? "", item.image ?? "", ...item.reasons, ...(item.failure ?? [])];
    for (const [, , description] of Object.values(item.scores)) texts.push(description);
    const text = texts.join("\n").toLowerCase();
    return words.every((word) => text.includes(word));
  }

  function inRange(item, { aspect, min, max }) {
    const scores = aspect ? [item.scores[aspect]] : Object.values(item.scores);
    return scores.some((each) => each !== undefined && each[0] >= min && each[0] <= max);
  }

  function flipped(item, flips) {
    return item.decision !== item.now && (flips === "any" || flips === `${item.decision}>${item.now}`);
  }

  function labelled(label, wanted, decision) {
    if (wanted === "none") return label === undefined;
    if (wanted === "any") return label !== undefined;
    if (wanted === "against") return (label === "accept" && decision === "reject") || (label === "reject" && decision === "accept");
    return label === wanted;
  }

  /** The images that a state shows, in its order. `labelOf` gives the label of an id. */
  function apply(items, state, labelOf) {
    const words = state.q.toLowerCase().split(/\s+/).filter(Boolean);
    const failures = state.view === "failures";
    const ranged = !failures && (state.min > 0 || state.max < 5 || state.aspect !== "");
    const found = items.filter((item) =>
      (item.failure !== undefined) === failures
      && (!state.decision || item.now === state.decision)
      && (!state.model || item.model === state.model)
      && (!state.code || !failures || item.failure[0] === state.code)
      && (!ranged || inRange(item, state))
      && (!state.flips || flipped(item, state.flips))
      && (!state.label || labelled(labelOf(item.id), state.label, item.now))
      && (!words.length || has(item, words)));
    return sorted(found, state);
  }

  const lowest = (item) => Math.min(...Object.values(item.scores).map(([value]) => value));

  function sorted(items, state) {
    const [name, direction] = state.sort.split("-");
    const sign = direction === "down" ? -1 : 1;
    const keys = {
      lowest,
      decision: (item) => SEVERITY[item.now],
      time: (item) => Date.parse(item.at) || 0,
    };
    const key = keys[name] ?? (Data.about?.aspects.includes(name) ? (item) => item.scores[name]?.[0] : null);
    if (state.view === "failures" && !key) return items.sort((one, other) => compare(one.failure[0], other.failure[0]));
    if (!key) return items;
    const known = items.map((item) => [key(item), item]);
    known.sort(([one], [other]) => ((one ?? Infinity) - (other ?? Infinity) || 0) * sign);
    return known.map(([, item]) => item);
  }

  const compare = (one, other) => (one < other ? -1 : Number(one > other));

  return { initial, toHash, fromHash, apply };
})();
