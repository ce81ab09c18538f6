// An image in a dialog, with everything that is known of it.
"use strict";

const Detail = (() => {
  /** `app.step(by)` shows a neighbour; `app.label` labels what is shown. */
  function create(dialog, app) {
    let item = null;

    function show(which, heading) {
      item = which;
      const blind = app.state.blind;
      dialog.replaceChildren(
        el("div", { class: "detail" },
          el("div", { class: "large" }, Card.picture(item, "large")),
          el("div", { class: "text", tabindex: "0", role: "region", "aria-label": "What is known of the image" },
            el("h2", { id: "detail-title" }, heading),
            el("p", { class: "prompt", dir: "auto" }, Card.prompt(item)),
            Card.chips(item, app), Card.failure(item),
            ...(blind ? [el("p", { class: "quiet" }, "Scores, reasons and decision are hidden until you leave blind mode.")] : scores()),
            facts(blind))),
        el("div", { class: "below" },
          Card.buttons(item, app, (label) => app.label(item, label)),
          button("Undo", "u", app.undo),
          ...(app.proposing ? [] : [button("Previous", "k", () => app.step(-1)), button("Next", "j", () => app.step(1))]),
          button("Close", "Escape", () => dialog.close())));
      if (!dialog.open) dialog.showModal();
      dialog.focus();
      dialog.querySelector(".text").scrollTop = 0;
    }

    const button = (text, key, onclick) => el("button", { type: "button", "aria-keyshortcuts": key, onclick }, text, key.length === 1 ? el("kbd", { "aria-hidden": "true" }, key) : null);

    function scores() {
      const why = Card.reasons(item, app);
      const written = Object.entries(item.scores).filter(([, [, , description]]) => description);
      return [
        Card.bars(item, app),
        why ? el("p", { class: "reasons" }, why) : null,
        ...written.flatMap(([aspect, [, rating, description]]) => [
          el("h3", {}, `${aspect}: ${rating}`), el("p", { class: "written", dir: "auto" }, description)]),
      ];
    }

    function facts(blind) {
      const rows = [["Id", item.id], ["Image", item.image], ["SHA-256", item.sha256], ["Scored", item.at],
        ["Model", item.model], ["Policy", item.policy],
        ["Proposed", item.plan && !blind ? `${item.plan[0]}, with a chance of ${(100 * item.plan[1]).toPrecision(3)} %` : ""]];
      return el("dl", { class: "facts" }, ...rows.filter(([, text]) => text).flatMap(([name, text]) =>
        [el("dt", {}, name), el("dd", { dir: "auto" }, text)]));
    }

    return { show, item: () => (dialog.open ? item : null), close: () => dialog.close() };
  }

  return { create };
})();
