// What is shown of one image, in the list and in its dialog.
"use strict";

const Card = (() => {
  const LABEL_WORDS = { accept: "you: accept", reject: "you: reject", skip: "you: skip" };
  const LINES = 400;

  function bar(aspect, scored, thresholds) {
    const [score, rating] = scored ?? [null, "no score"];
    const colour = scored ? Decide.zone(score, thresholds) : "plain";
    const fill = el("span", { class: `fill ${colour}` });
    fill.style.width = `${(score ?? 0) * 20}%`;
    const marks = thresholds ? [thresholds.reject_below, thresholds.review_below].filter((at) => at > 0).map(mark) : [];
    const says = scored ? `${aspect} ${score.toFixed(2)} of 5, ${rating}${{ reject: ", below the threshold for reject", review: ", below the threshold for review" }[colour] ?? ""}` : `${aspect}: no score`;
    return el("div", { class: "bar", role: "img", "aria-label": says },
      el("span", { class: "name" }, aspect), el("span", { class: "track" }, fill, ...marks),
      el("span", { class: "value" }, scored ? score.toFixed(2) : "–"));
  }

  function mark(at) {
    const node = el("span", { class: "mark" });
    node.style.left = `${at * 20}%`;
    return node;
  }

  const bars = (item, app) => el("div", { class: "bars" },
    ...Data.about.aspects.map((aspect) => bar(aspect, item.scores[aspect], app.policy.aspects[aspect])));

  function picture(item, size) {
    if (!item.thumb) return el("span", { class: "none" }, cut(`No image: ${item.why}`, size === "large" ? LINES : 90));
    // Rows are made anew with each change: decoded later, their images would flicker.
    return el("img", { src: item.thumb, alt: "", decoding: "sync" });
  }

  const chip = (kind, text, title) => el("span", { class: `chip ${kind}`, title }, text);

  /** The decision as it is, and what it was where the thresholds changed it. */
  function decision(item) {
    const changed = item.now !== item.decision;
    return [chip(item.now, item.now), changed ? chip("was", `was ${item.decision}`, "decided otherwise when it was scored") : null];
  }

  function chips(item, app) {
    const label = app.labels.get(item.id);
    return el("p", { class: "chips" },
      ...(app.state.blind ? [] : decision(item)),
      label ? chip(`label ${label}`, LABEL_WORDS[label]) : null,
      item.plan ? chip("plan", app.state.blind ? "proposed" : `proposed: ${item.plan[0].replace(":", " ")}`) : null);
  }

  /** Why not "accept": the thresholds that are missed now, or what the verdict says where they changed nothing. */
  function reasons(item, app) {
    if (item.now === item.decision && item.reasons.length) return item.reasons.join("; ");
    const missed = Decide.missed(item, app.policy).map(([aspect, name, value]) => `${aspect} ${short(item.scores[aspect][0], value)} < ${name} ${value.toFixed(2)}`);
    return [...missed, ...item.floor[1]].join("; ");
  }

  /** Two decimals, or as many as make the score look different from the threshold. */
  function short(score, threshold) {
    for (let decimals = 2; decimals < 17; decimals += 1) {
      const text = score.toFixed(decimals);
      if (Number(text) < threshold) return text;
    }
    return String(score);
  }

  const prompt = (item, most = Infinity) =>
    (item.prompt === undefined ? "(the source does not tell the prompt)" : item.prompt === "" ? "(an empty prompt)" : cut(item.prompt, most));

  const failure = (item, most = Infinity) =>
    (item.failure ? el("p", { class: "failure", dir: "auto" }, el("code", {}, item.failure[0]), ` ${cut(item.failure[1], most)}`) : null);

  const LABELS = [["accept", "Accept", "a"], ["reject", "Reject", "r"], ["skip", "Skip", "s"]];

  const buttons = (item, app, onlabel) => el("div", { class: "labels", role: "group", "aria-label": "Your label" },
    ...LABELS.map(([label, text, key]) => el("button", {
      type: "button", class: label, "aria-pressed": String(app.labels.get(item.id) === label), "aria-keyshortcuts": key,
      onclick: () => onlabel(label),
    }, text, el("kbd", { "aria-hidden": "true" }, key))));

  /** A row of the list. */
  function row(item, index, app) {
    const why = app.state.blind || (item.failure && !Object.keys(item.scores).length) ? "" : reasons(item, app);
    return el("div", { class: "card", role: "listitem", "aria-posinset": index + 1, "aria-setsize": app.shown.length },
      el("button", { type: "button", class: "open", "aria-label": `Open: ${prompt(item, 120)}`, onclick: () => app.open(index), onfocus: () => app.list.move(index, false) }, picture(item)),
      el("div", { class: "said" },
        el("p", { class: "prompt", dir: "auto" }, prompt(item, LINES)),
        chips(item, app),
        failure(item, 200),
        why ? el("p", { class: "reasons" }, cut(why, LINES)) : null,
        el("p", { class: "id quiet" }, el("bdi", {}, cut(item.id, 80)))),
      app.state.blind ? el("p", { class: "bars quiet" }, "Scores are hidden.") : bars(item, app),
      buttons(item, app, (label) => app.label(item, label)));
  }

  return { bars, picture, chips, reasons, prompt, failure, buttons, row };
})();
