// A person's labels: kept in the browser, exported and imported as labels.csv.
"use strict";

const Labels = (() => {
  const COLUMNS = ["id", "image_sha256", "label", "chosen", "policy_digest", "at", "chance"];
  const WORDS = ["accept", "reject", "skip"];

  /** Labels of the images `items`; `policy` is the digest of the policy around whose thresholds the sample was drawn. */
  function create(items, policy, storage) {
    const byId = new Map();
    for (const item of items) if (!byId.has(item.id)) byId.set(item.id, item);
    const plan = [...byId.values()].filter((item) => item.plan).sort((one, other) => one.plan[2] - other.plan[2]);
    const labels = new Map(storage.read());
    const past = [];

    const keep = () => storage.write([...labels]);
    const get = (id) => labels.get(id)?.label;

    function set(id, label, at = new Date().toISOString()) {
      past.push([id, labels.get(id)]);
      labels.set(id, { label, at });
      keep();
    }

    /** Take the latest label back; its id, or undefined. */
    function undo() {
      const latest = past.pop();
      if (!latest) return undefined;
      const [id, before] = latest;
      if (before) labels.set(id, before);
      else labels.delete(id);
      keep();
      return id;
    }

    /** How many proposed images have labels, up to the first that has none. Those, and no others, are the sample: one
     * that was labelled for another reason before its turn counts when its turn has come. */
    function reached() {
      const open = plan.findIndex((item) => !labels.has(item.id));
      return open < 0 ? plan.length : open;
    }

    const next = () => plan.find((item) => !labels.has(item.id));

    function rows() {
      const sample = reached();
      return [...labels].map(([id, { label, at, kept }]) => {
        const item = byId.get(id);
        if (!item && kept) return { ...kept, id, label, at };
        const chosen = item?.plan && item.plan[2] < sample ? item.plan : ["free", ""];
        return { id, image_sha256: item?.sha256 ?? "", label, chosen: chosen[0], policy_digest: policy, at, chance: String(chosen[1]) };
      });
    }

    const toCsv = () => [COLUMNS, ...rows().map((row) => COLUMNS.map((name) => row[name]))].map(line).join("");

    /** Take in the labels of a file. Says what came of it, in words. */
    function fromCsv(text) {
      const [header, ...lines] = parse(text);
      const missing = ["id", "label"].filter((name) => !header?.includes(name));
      if (missing.length) return `This is no labels.csv: it has no column ${missing.join(", ")}.`;
      const wrong = [];
      let taken = 0, elsewhere = 0;
      lines.forEach((cells, index) => {
        const row = Object.fromEntries(COLUMNS.map((name) => [name, cells[header.indexOf(name)] ?? ""]));
        if (!row.id || !WORDS.includes(row.label)) return wrong.push(index + 2);
        const here = byId.has(row.id);
        const { image_sha256, chosen, policy_digest, chance } = row;
        labels.set(row.id, { label: row.label, at: row.at, ...(here ? {} : { kept: { image_sha256, chosen, policy_digest, chance } }) });
        taken += 1;
        elsewhere += here ? 0 : 1;
      });
      past.length = 0;
      keep();
      const said = [`${counted(taken, "label")} taken in.`];
      if (elsewhere) said.push(`${whole(elsewhere)} of them are of images that are not on this page; an export keeps them.`);
      if (wrong.length) said.push(`${counted(wrong.length, "row")} made no sense, the first is row ${wrong[0]}.`);
      return said.join(" ");
    }

    return { get, set, undo, next, reached, toCsv, fromCsv, planned: plan.length, size: () => labels.size };
  }

  const line = (cells) => `${cells.map(cell).join(",")}\r\n`;
  const cell = (text) => (/[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);

  /** The rows of a CSV text, each a list of cells (RFC 4180). */
  function parse(text) {
    const rows = [];
    let row = [];
    for (const [, quoted, plain, end] of text.replace(/^\uFEFF/, "").matchAll(/(?:"((?:[^"]|"")*)"|([^",\r\n]*))(,|\r?\n|$)/g)) {
      if (end === "" && row.length === 0 && !quoted && !plain) break;
      row.push(quoted === undefined ? plain : quoted.replaceAll('""', '"'));
      if (end === ",") continue;
      rows.push(row);
      row = [];
    }
    return rows.filter((cells) => cells.some(Boolean));
  }

  /** A place in the browser that keeps labels under a name; where the browser has none, they last as long as the page. */
  function storage(name) {
    return {
      kept: true,
      read() {
        try {
          return JSON.parse(localStorage.getItem(name) ?? "[]").filter(isEntry);
        } catch {
          return [];
        }
      },
      write(entries) {
        try {
          localStorage.setItem(name, JSON.stringify(entries));
        } catch {
          this.kept = false;
        }
      },
    };
  }

  // Other pages from this disk may write to the same storage.
  const isEntry = (entry) =>
    Array.isArray(entry) && typeof entry[0] === "string" && WORDS.includes(entry[1]?.label) && typeof entry[1].at === "string";

  return { COLUMNS, create, parse, storage };
})();
