// Decides by thresholds as m3agiqa/policy.py does; a test holds the two together. What thresholds cannot change (failures,
// aspects without a score, a policy's sample) was decided when the page was written: `item.floor`.
"use strict";

const Decide = (() => {
  const DECISIONS = ["accept", "review", "reject"];

  /** The most severe decision that anything calls for, and the thresholds that were missed: [aspect, name, value]. */
  function decide(item, policy) {
    const missed = [];
    for (const [aspect, [score]] of Object.entries(item.scores)) {
      const thresholds = policy.aspects[aspect];
      if (!thresholds) continue;
      const name = ["reject_below", "review_below"].find((each) => score < thresholds[each]);
      if (name) missed.push([aspect, name, thresholds[name]]);
    }
    const called = [item.floor[0], ...missed.map(([, name]) => (name === "reject_below" ? "reject" : "review"))];
    return { decision: DECISIONS[Math.max(...called.map((each) => DECISIONS.indexOf(each)))], missed };
  }

  /** Decide all anew: each item gets `now` and `missed`. */
  function all(items, policy) {
    for (const item of items) {
      const found = decide(item, policy);
      item.now = found.decision;
      item.missed = found.missed;
    }
  }

  /** How many go from each decision to each: counts["review"]["reject"]. */
  function flows(items) {
    const counts = {};
    for (const from of DECISIONS) counts[from] = { accept: 0, review: 0, reject: 0 };
    for (const item of items) counts[item.decision][item.now] += 1;
    return counts;
  }

  return { DECISIONS, decide, all, flows };
})();
