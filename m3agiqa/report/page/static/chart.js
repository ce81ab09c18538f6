// How the scores of an aspect lie, over the sliders of its thresholds.
"use strict";

const Chart = (() => {
  const BINS = 50, STEP = 4, HEIGHT = 44;

  /** A histogram of scores from 0 to 5; `colour(thresholds)` colours its bars by what the thresholds say. */
  function create(aspect, scores) {
    const bins = new Array(BINS).fill(0);
    for (const score of scores) bins[Math.min(BINS - 1, Math.floor(score * BINS / 5))] += 1;
    const most = Math.max(1, ...bins);
    const node = svg("svg", { viewBox: `0 0 ${BINS * STEP} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", class: "chart" });
    node.setAttribute("aria-label", describe(aspect, scores));
    const bars = bins.map((count, bin) => {
      // By the square root: a few images among thousands are to be seen.
      const height = count ? Math.max(1, Math.sqrt(count / most) * HEIGHT) : 0;
      return node.appendChild(svg("rect", { x: bin * STEP + 0.4, width: STEP - 0.8, y: HEIGHT - height, height }));
    });
    const colour = (thresholds) => bars.forEach((bar, bin) => {
      const zone = Decide.zone((bin + 0.5) * 5 / BINS, thresholds);
      if (bar.getAttribute("class") !== zone) bar.setAttribute("class", zone);
    });
    return { node, colour };
  }

  function describe(aspect, scores) {
    if (!scores.length) return `${aspect}: no scores`;
    const [low, middle, high] = quartiles(scores).map((value) => value.toFixed(2));
    return `${aspect}: ${whole(scores.length)} scores, half of them from ${low} to ${high}, median ${middle}`;
  }

  function quartiles(scores) {
    const ordered = Float64Array.from(scores).sort();
    return [0.25, 0.5, 0.75].map((share) => ordered[Math.floor(share * (ordered.length - 1))]);
  }

  return { create, quartiles };
})();
