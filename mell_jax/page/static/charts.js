// Two charts: how often which gap between tokens was seen, and devices over time.

const PAD = { left: 26, right: 8, top: 6, bottom: 16 };

function drawGaps(canvas) {
  const { context, width, height } = contextOf(canvas);
  const { bounds, moved, unmoved, after } = recentGaps();
  const range = seenRange([moved, unmoved, after]);
  if (range === null) {
    write(context, "no gaps yet", width / 2, height / 2, { align: "center", colour: COLOURS.faint });
    return;
  }
  const [first, last] = range;
  const step = (width - PAD.left - PAD.right) / (last - first + 1);
  const floor = height - PAD.bottom;
  drawSeconds(context, { bounds, first, last, step, floor });
  const shares = [unmoved, moved].map(sharesOf);
  const most = Math.max(...shares.flat(), 1e-9);
  [COLOURS.unmoved, COLOURS.moved].forEach((colour, i) => {
    const heights = shares[i].map((share) => ((floor - PAD.top) * share) / most);
    if (heights.some((each) => each > 0)) drawHill(context, { heights, first, last, step, floor, colour });
  });
  context.fillStyle = COLOURS.text; // each is a move, as far as they can be told apart
  after.forEach((count, i) => {
    if (count) context.fillRect(PAD.left + (i - first + 0.5) * step - 1.5, floor - 4 - 6 * Math.log2(1 + count), 3, 4 + 6 * Math.log2(1 + count));
  });
}

/** Returns the first and last bucket to show; null where nothing was counted. */
function seenRange(histograms) {
  let first = Infinity;
  let last = -1;
  for (const counts of histograms) {
    counts.forEach((count, i) => {
      if (!count) return;
      first = Math.min(first, i);
      last = Math.max(last, i);
    });
  }
  if (last < 0) return null;
  return [Math.max(0, first - 2), last + 2];
}

function sharesOf(counts) {
  const total = counts.reduce((sum, count) => sum + count, 0);
  return counts.map((count) => (total ? Math.sqrt(count / total) : 0)); // rare ones show, too
}

function drawSeconds(context, { bounds, first, last, step, floor }) {
  context.strokeStyle = COLOURS.line;
  context.lineWidth = 1;
  const right = PAD.left + (last - first + 1) * step + PAD.right;
  let free = -Infinity;
  for (let i = first; i <= Math.min(last, bounds.length - 1); i++) {
    if (i % 4) continue; // three to a decade: 1, 2.2, 4.6
    const x = PAD.left + (i - first + 1) * step;
    context.beginPath();
    context.moveTo(x, PAD.top);
    context.lineTo(x, floor);
    context.stroke();
    const words = seconds(Number(bounds[i].toPrecision(2)));
    const half = context.measureText(words).width / 2;
    if (x - half < free || x + half > right) continue;
    write(context, words, x, floor + 9, { size: 10.5, align: "center", colour: COLOURS.faint });
    free = x + half + 8;
  }
}

function drawHill(context, { heights, first, last, step, floor, colour }) {
  context.beginPath();
  context.moveTo(PAD.left, floor);
  let previous = 0;
  for (let i = first; i <= last; i++) {
    const high = heights[i] || 0;
    const x = PAD.left + (i - first) * step;
    context.bezierCurveTo(x, floor - previous, x, floor - high, x + step / 2, floor - high);
    previous = high;
  }
  context.lineTo(PAD.left + (last - first + 1) * step, floor);
  context.globalAlpha = 0.22;
  context.fillStyle = colour;
  context.fill();
  context.globalAlpha = 1;
  context.strokeStyle = colour;
  context.lineWidth = 1.8;
  context.stroke();
}

function drawHistory(canvas) {
  const { context, width, height } = contextOf(canvas);
  const history = model.history;
  const end = player === null ? model.moment.at : player.endS;
  const start = player === null ? Math.min(history[0].at, end - 20) : player.startS;
  const most = Math.max(player === null ? model.moment.tiles.length : player.most, 1);
  const floor = height - PAD.bottom;
  const x = (at) => PAD.left + ((width - PAD.left - PAD.right) * (at - start)) / Math.max(end - start, 1);
  const y = (count) => floor - ((floor - PAD.top) * count) / most;
  drawCounts(context, { most, y, width });
  drawSaved(context, { history, x, y });
  drawSteps(context, { history, x, y, of: (each) => each.bound, colour: COLOURS.soft, dash: [2, 3] });
  drawSteps(context, { history, x, y, of: (each) => each.rival, colour: COLOURS.rival, dash: [] });
  drawSteps(context, { history, x, y, of: (each) => each.inUse, colour: COLOURS.good, dash: [], wide: 2.2 });
  const span = end - start;
  const words = span < 120 ? `${Math.round(span)} s ago` : `${Math.round(span / 60)} min ago`;
  write(context, player === null ? words : "start", PAD.left, height - 6, { size: 10.5, colour: COLOURS.faint });
  write(context, player === null ? "now" : "end", width - PAD.right, height - 6, { size: 10.5, align: "right", colour: COLOURS.faint });
}

function drawCounts(context, { most, y, width }) {
  const step = Math.max(1, Math.ceil(most / 4));
  context.lineWidth = 1;
  for (let count = 0; count <= most; count += step) {
    context.strokeStyle = COLOURS.line;
    context.beginPath();
    context.moveTo(PAD.left, Math.round(y(count)) + 0.5);
    context.lineTo(width - PAD.right, Math.round(y(count)) + 0.5);
    context.stroke();
    write(context, `${count}`, PAD.left - 6, y(count), { size: 10.5, align: "right", colour: COLOURS.faint });
  }
}

/** Fills what the other policy would hold beyond what is in use. */
function drawSaved(context, { history, x, y }) {
  context.fillStyle = "rgba(233,180,76,0.16)";
  for (let i = 0; i + 1 < history.length; i++) {
    const each = history[i];
    if (each.rival === null || each.rival <= each.inUse) continue;
    const left = x(each.at);
    context.fillRect(left, y(each.rival), x(history[i + 1].at) - left + 0.5, y(each.inUse) - y(each.rival));
  }
}

function drawSteps(context, { history, x, y, of, colour, dash, wide = 1.5 }) {
  context.strokeStyle = colour;
  context.lineWidth = wide;
  context.setLineDash(dash);
  context.beginPath();
  let isDown = false;
  for (let i = 0; i < history.length; i++) {
    const value = of(history[i]);
    if (value === null) {
      isDown = false;
      continue;
    }
    const left = x(history[i].at);
    if (isDown) context.lineTo(left, y(value));
    else context.moveTo(left, y(value));
    isDown = true;
    if (i + 1 < history.length) context.lineTo(x(history[i + 1].at), y(value));
  }
  context.stroke();
  context.setLineDash([]);
}
