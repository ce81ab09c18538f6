// A list of which only the rows in sight exist. Rows have one height, which the style sheet gives as `--row`.
"use strict";

const List = (() => {
  const SPARE = 4;

  /** `render(index)` makes a row; `count()` says how many there are. */
  function create(box, count, render) {
    const rows = new Map();
    let height = 0, current = 0;

    function measure() {
      height = parseFloat(getComputedStyle(box).getPropertyValue("--row"));
      box.style.height = `${count() * height}px`;
    }

    /** The rows in sight: from the first to before the second. */
    function sight() {
      const top = -box.getBoundingClientRect().top;
      const first = Math.floor(top / height) - SPARE;
      const last = Math.ceil((top + innerHeight) / height) + SPARE;
      return [Math.max(0, Math.min(first, count())), Math.max(0, Math.min(last, count()))];
    }

    function draw() {
      const [first, last] = sight();
      for (const [index, row] of rows) {
        if (index >= first && index < last) continue;
        row.remove();
        rows.delete(index);
      }
      for (let index = first; index < last; index += 1) if (!rows.has(index)) place(index);
    }

    /** In the order of the list, so that Tab goes down the page. */
    function place(index) {
      const row = render(index);
      row.style.top = `${index * height}px`;
      row.classList.toggle("current", index === current);
      const after = [...rows.keys()].filter((other) => other > index);
      box.insertBefore(row, after.length ? rows.get(Math.min(...after)) : null);
      rows.set(index, row);
    }

    /** Everything may have changed. */
    function refresh() {
      const focused = [...rows].find(([, row]) => row.contains(document.activeElement))?.[0];
      for (const row of rows.values()) row.remove();
      rows.clear();
      current = Math.max(0, Math.min(current, count() - 1));
      measure();
      draw();
      if (focused !== undefined) focus(Math.min(focused, count() - 1));
    }

    const focus = (index) => rows.get(index)?.querySelector("button").focus({ preventScroll: true });

    /** Make a row the current one, in sight if `goThere`. */
    function move(index, goThere = true) {
      if (index < 0 || index >= count()) return;
      rows.get(current)?.classList.remove("current");
      current = index;
      if (goThere) {
        reveal(index);
        draw();
        focus(index);
      }
      rows.get(index)?.classList.add("current");
    }

    function reveal(index) {
      const start = box.getBoundingClientRect().top + index * height;
      const margin = parseFloat(getComputedStyle(box).scrollMarginTop) || 0;
      if (start < margin) scrollBy(0, start - margin);
      else if (start + height > innerHeight) scrollBy(0, start + height - innerHeight + 8);
    }

    addEventListener("scroll", draw, { passive: true });
    addEventListener("resize", refresh);
    return { refresh, move, current: () => current };
  }

  return { create };
})();
