"use strict";
// The model is what the page knows: the latest moment, and what it remembers of those
// before. Nothing here draws, and nothing grows with the time that the page is open.

const HISTORY_S = 300; // of live fleets; a film is shown whole
const MOST_HISTORY = 1200;
const GAPS_OF = 120; // moments, a minute of a live fleet
const FADE_MS = 350;

const model = {
  moment: null,
  count: 0, // moments so far
  arrivedMs: 0, // of the latest one
  periodMs: 500, // between the latest ones, roughly
  dots: new Map(), // by the request's number
  lanes: new Map(), // likewise
  history: [],
  gaps: [], // counts of the latest moments, the oldest first
  keepsHistory: false,
  rememberedS: 20, // of ticks
  lostTicks: 0, // that came and were never told
};

function forgetAll() {
  model.moment = null;
  model.dots.clear();
  model.lanes.clear();
  model.history.length = 0;
  model.gaps.length = 0;
}

/** Takes a moment in; one that is no news changes nothing. */
function receive(moment, nowMs) {
  const last = model.moment;
  if (last !== null && moment.number === last.number) return false;
  if (last !== null && moment.at < last.at) forgetAll(); // another fleet, begun anew
  if (last !== null) {
    const period = Math.min(2000, nowMs - model.arrivedMs);
    model.periodMs += 0.2 * (period - model.periodMs);
  }
  model.moment = moment;
  model.arrivedMs = nowMs;
  model.count += 1;
  receiveDots(moment.dots, nowMs);
  for (const lane of moment.lanes) receiveLane(lane);
  forgetLanes(moment);
  remember(moment);
  return true;
}

function receiveDots(dots, nowMs) {
  const dotsByNumber = model.dots;
  for (let i = 0; i < dots.numbers.length; i++) {
    const number = dots.numbers[i];
    let dot = dotsByNumber.get(number);
    if (dot === undefined) {
      dot = { number, device: dots.devices[i], from: null, movedMs: 0, bornMs: nowMs };
      dot.slots = new Map(); // places in tiles, by device
      dotsByNumber.set(number, dot);
    } else if (dot.device !== dots.devices[i]) {
      dot.from = dot.device;
      dot.movedMs = nowMs;
      dot.device = dots.devices[i];
    }
    dot.target = dots.targets[i];
    dot.pages = dots.pages[i];
    dot.tokens = dots.tokens[i];
    dot.seen = model.count;
    dot.goneMs = null;
  }
  for (const dot of dotsByNumber.values()) {
    if (dot.seen === model.count) continue;
    if (dot.goneMs === null) dot.goneMs = nowMs;
    else if (nowMs - dot.goneMs > FADE_MS) dotsByNumber.delete(dot.number);
  }
}

/** Adds the ticks that are new: moments overlap, so that one may be missed. */
function receiveLane(told) {
  let lane = model.lanes.get(told.request);
  if (lane === undefined) {
    lane = { request: told.request, ticks: [], moves: [], start: told.first, count: told.first };
    model.lanes.set(told.request, lane);
  }
  const missed = told.first - lane.count;
  if (missed > 0) model.lostTicks += missed;
  const fresh = missed > 0 ? told.ticks : told.ticks.slice(-missed || 0);
  for (const tick of fresh) lane.ticks.push(tick);
  lane.count = Math.max(lane.count, told.first + told.ticks.length);
  const latest = lane.moves.length ? lane.moves[lane.moves.length - 1][0] : -1;
  for (const move of told.moves) if (move[0] > latest) lane.moves.push(move);
  lane.device = told.device;
  lane.isOver = told.is_over;
  lane.seen = model.count;
}

function forgetLanes(moment) {
  const since = moment.at - model.rememberedS;
  for (const lane of model.lanes.values()) {
    dropBefore(lane.ticks, since, (tick) => tick);
    dropBefore(lane.moves, since, (move) => move[0]);
    const isSilent = lane.ticks.length === 0 && lane.seen !== model.count;
    if (isSilent) model.lanes.delete(lane.request);
  }
}

function dropBefore(items, since, timeOf) {
  let count = 0;
  while (count < items.length && timeOf(items[count]) < since) count++;
  if (count) items.splice(0, count);
}

function remember(moment) {
  model.gaps.push(moment.gaps);
  if (model.gaps.length > GAPS_OF) model.gaps.shift();
  const history = model.history;
  history.push(historyOf(moment));
  if (!model.keepsHistory) dropBefore(history, moment.at - HISTORY_S, (each) => each.at);
  if (history.length > MOST_HISTORY) history.splice(0, history.length - MOST_HISTORY);
}

function historyOf(moment) {
  const rival = moment.rivals.find((each) => !each.is_over);
  return {
    at: moment.at,
    inUse: moment.in_use,
    bound: moment.bound,
    rival: rival === undefined ? null : rival.devices,
  };
}

/** Returns the device on which a lane's tick was made. */
function deviceAt(lane, at) {
  let device = lane.device;
  for (let i = lane.moves.length - 1; i >= 0; i--) {
    if (at >= lane.moves[i][0]) return i === lane.moves.length - 1 ? device : lane.moves[i][2];
    device = lane.moves[i][1];
  }
  return device;
}

/** Returns the gaps that were counted since the oldest moment that is remembered. */
function recentGaps() {
  const now = model.moment.gaps;
  const before = model.gaps[0];
  if (before === now) return now;
  const grown = (kind) => now[kind].map((count, i) => count - before[kind][i]);
  return { bounds: now.bounds, moved: grown("moved"), unmoved: grown("unmoved"), after: grown("after") };
}

/** Returns the value below which a share of a histogram's counts lie; NaN of none. */
function quantile(bounds, counts, share) {
  const total = counts.reduce((sum, count) => sum + count, 0);
  if (!total) return NaN;
  let below = 0;
  for (let i = 0; i < counts.length; i++) {
    if (below + counts[i] >= share * total && counts[i]) {
      const high = i < bounds.length ? bounds[i] : bounds[bounds.length - 1];
      const low = i ? bounds[i - 1] : high / 1.2;
      return low * (high / low) ** ((share * total - below) / counts[i]);
    }
    below += counts[i];
  }
  return NaN;
}
