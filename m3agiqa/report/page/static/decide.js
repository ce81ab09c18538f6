// Decides by thresholds as m3agiqa/policy.py does; a test holds the two together. What thresholds cannot change (failures,
// aspects without a score, a policy's sample) was decided when the page was written: `item.floor`.
"use strict";

const Decide = (() => {
  const DECISIONS = ["accept", "review", "reject"];
  const SEVERITY = { plain: 0, accept: 0, review: 1, reject: 2 };

  /** What a score calls for; "plain" where no threshold judges it. A score that equals a threshold passes it. */
  function zone(score, thresholds) {
    if (!thresholds) return "plain";
    if (score < thresholds.reject_below) return "reject";
    return score < thresholds.review_below ? "review" : "accept";
  }

  /** The most severe decision that anything calls for; `judged` are pairs of an aspect and its thresholds. */
  function decide(item, judged) {
    let severity = SEVERITY[item.floor[0]];
    for (const [aspect, thresholds] of judged) {
      const scored = item.scores[aspect];
      if (scored) severity = Math.max(severity, SEVERITY[zone(scored[0], thresholds)]);
    }
    return DECISIONS[severity];
  }

  /** Decide all anew: each item gets `now`. */
  function all(items, policy) {
    const judged = Object.entries(policy.aspects);
    for (const item of items) item.now = decide(item, judged);
  }

  /** The thresholds that an item misses: [aspect, name, value]. */
  function missed(item, policy) {
    return Object.entries(policy.aspects).flatMap(([aspect, thresholds]) => {
      const name = item.scores[aspect] && `${zone(item.scores[aspect][0], thresholds)}_below`;
      return name in thresholds ? [[aspect, name, thresholds[name]]] : [];
    });
  }

  /** How many go from each decision to each: counts["review"]["reject"]. */
  function flows(items) {
    const counts = {};
    for (const from of DECISIONS) counts[from] = { accept: 0, review: 0, reject: 0 };
    for (const item of items) counts[item.decision][item.now] += 1;
    return counts;
  }

  return { DECISIONS, zone, all, missed, flows };
})();
