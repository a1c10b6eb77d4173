// What `page.py` looks for in the page, which knows nothing of it.
() => {
  const kept = { ticks: {}, moves: {}, drawn: [] };

  /** Keeps of every stream that comes by what the page forgets. */
  function keep() {
    for (const lane of model.lanes.values()) {
      kept.ticks[lane.request] = [lane.start, lane.count];
      for (const move of lane.moves) kept.moves[`${lane.request} ${move[0]}`] = move;
    }
  }

  /** Shows 1,000 requests, a hundred of which move from one number to the next. */
  function crowd(number) {
    const all = Array.from({ length: 1000 }, (_, i) => i);
    const home = (i, step) => (i + Math.floor((step + (i % 10)) / 10)) % 8;
    const at = model.moment.at + 0.5;
    const moment = structuredClone(model.moment);
    moment.number = 1e9 + number;
    moment.at = at;
    moment.tiles = Array.from({ length: 8 }, (_, device) => ({
      device, state: "serving", model: "m", capacity: 2000, used: 1500, reserved: 50,
      cached: 100, rows: 125, paused: 0,
    }));
    moment.dots = {
      numbers: all,
      devices: all.map((i) => home(i, number)),
      targets: all.map((i) => (home(i, number) === home(i, number + 1) ? -1 : home(i, number + 1))),
      pages: all.map((i) => 1 + (i % 30)),
      tokens: all.map((i) => 10 * i),
      left_out: 0,
    };
    moment.lanes = all.slice(0, 48).map((i) => ({
      request: i, device: home(i, number), first: 25 * number, is_over: false, moves: [],
      ticks: Array.from({ length: 100 }, (_, k) => at - 2 + 0.02 * k),
    }));
    show(moment, performance.now());
  }

  /** Returns how many pixels of a canvas have about a colour. */
  function pixels(id, wanted) {
    const canvas = document.getElementById(id);
    const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
    let count = 0;
    for (let i = 0; i < data.length; i += 4) {
      const isIt = wanted.every((part, k) => Math.abs(data[i + k] - part) < 24);
      if (data[i + 3] > 180 && isIt) count++;
    }
    return count;
  }

  /** From now on the server's own moments are not shown. */
  function take() {
    const own = receive;
    receive = (moment, nowMs) => moment.number >= 1e9 && own(moment, nowMs);
  }

  const draw = drawStage;
  drawStage = (...given) => {
    const startMs = performance.now();
    draw(...given);
    kept.drawn.push(performance.now() - startMs);
  };
  setInterval(keep, 200);
  window.probe = { kept, crowd, pixels, take };
}
