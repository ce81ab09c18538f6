// Decides by a policy as m3agiqa/policy.py does; a test holds the two together.
"use strict";

const Decide = (() => {
  const DECISIONS = ["accept", "review", "reject"];

  /** The most severe decision that anything calls for, and the thresholds that were missed: [aspect, name, value]. */
  function decide(item, policy) {
    const missed = [];
    let severity = 0;
    const find = (decision) => { severity = Math.max(severity, DECISIONS.indexOf(decision)); };
    const wanted = [...Object.keys(item.scores), ...item.missing];
    const failed = item.failure !== undefined && Object.keys(item.scores).length === 0;
    if (failed) find(policy.on_failure);
    for (const aspect of wanted) {
      const thresholds = policy.aspects[aspect];
      if (!thresholds) continue;
      if (!(aspect in item.scores)) {
        find(policy.on_missing);
        continue;
      }
      const score = item.scores[aspect][0];
      if (score < thresholds.reject_below) {
        missed.push([aspect, "reject_below", thresholds.reject_below]);
        find("reject");
      } else if (score < thresholds.review_below) {
        missed.push([aspect, "review_below", thresholds.review_below]);
        find("review");
      }
    }
    if (!failed && !wanted.some((aspect) => aspect in policy.aspects)) find(policy.on_missing);
    return { decision: DECISIONS[severity], missed };
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
