"use strict";
// What is decided, as plain values: no page, no browser. A state is {decisions: {pair: vote}, order: [pair, …]}.

const VOTES = ["chosen", "rejected", "tie", "defect", "skip"];

function emptyState() {
  return { decisions: {}, order: [] };
}

/** The state with one more decision; the pair's earlier one is replaced. */
function decide(state, pair, vote) {
  if (!VOTES.includes(vote)) throw new Error(`no such decision: ${vote}`);
  return {
    decisions: { ...state.decisions, [pair]: vote },
    order: [...state.order.filter((one) => one !== pair), pair],
  };
}

/** The state without the latest decision on one of `pairs`, and which that was (null: there is none). */
function undo(state, pairs) {
  const own = new Set(pairs);
  const last = [...state.order].reverse().find((one) => own.has(one)) ?? null;
  if (last === null) return { state, pair: null };
  const decisions = { ...state.decisions };
  delete decisions[last];
  return { state: { decisions, order: state.order.filter((one) => one !== last) }, pair: last };
}

/** The place of the next undecided pair from `start` on, round the end; -1 when all are decided. */
function nextOpen(pairs, state, start) {
  for (let step = 0; step < pairs.length; step += 1) {
    const place = (start + step) % pairs.length;
    if (!(pairs[place] in state.decisions)) return place;
  }
  return -1;
}

/** What a key means for a pair whose images stand as `sides` says: `left` is the one that stands on the left. */
function voteOf(key, sides) {
  if (key === "left") return sides[0];
  if (key === "right") return sides[1];
  return VOTES.includes(key) ? key : null;
}

function countDecided(pairs, state) {
  return pairs.filter((pair) => pair in state.decisions).length;
}

/** Both states in one; where both decide on a pair, the second does. */
function merged(first, second) {
  const later = new Set(second.order);
  return {
    decisions: { ...first.decisions, ...second.decisions },
    order: [...first.order.filter((pair) => !later.has(pair)), ...second.order],
  };
}

/** The content of a file of decisions. */
function toFile(about, state, reviewer, moment) {
  return {
    format: about.format,
    kind: "idtool-review",
    run: about.run,
    reviewer,
    blind: about.blind,
    seed: about.seed,
    made: moment,
    decisions: state.decisions,
  };
}

/** The state that a file of decisions tells. An error for other files, and for those of other pairs. */
function fromFile(about, content) {
  if (!content || content.kind !== "idtool-review" || typeof content.decisions !== "object" || !content.decisions) {
    throw new Error("this is no file of decisions");
  }
  if (content.run !== about.run) throw new Error("these decisions were made on other pairs");
  for (const vote of Object.values(content.decisions)) {
    if (!VOTES.includes(vote)) throw new Error(`no such decision: ${vote}`);
  }
  return { decisions: { ...content.decisions }, order: Object.keys(content.decisions) };
}
