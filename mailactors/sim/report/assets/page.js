// Draws each run's charts at once, so that they are in print and in pictures too. Everything to be
// drawn is in #runs, as JSON.
"use strict";
(() => {
  const runs = JSON.parse(document.getElementById("runs").textContent);
  const LEFT = 84, RIGHT = 26;
  const STEPS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600, 43200, 86400, 172800];
  const drawn = new Map();

  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const pad = (number) => String(number).padStart(2, "0");

  function clock(at, isLong) {
    const s = Math.round(at), h = Math.floor(s / 3600), m = Math.floor(s / 60) % 60;
    if (isLong && s % 60 === 0) return `${h}:${pad(m)} h`;
    return h ? `${h}:${pad(m)}:${pad(s % 60)}` : `${m}:${pad(s % 60)}`;
  }

  function shorten(text, ctx, width) {
    if (ctx.measureText(text).width <= width) return text;
    let cut = text;
    while (cut && ctx.measureText(`${cut}…`).width > width) cut = cut.slice(0, -1);
    return cut && `${cut}…`;
  }

  function shade(u, shades) {
    const { ctx } = u, { left, top, width, height } = u.bbox;
    ctx.save();
    ctx.fillStyle = colour("--fault");
    for (const each of shades) {
      const from = Math.max(left, u.valToPos(each.at_s, "x", true));
      const to = Math.min(left + width, u.valToPos(each.end_s, "x", true));
      if (to > left && from < left + width) ctx.fillRect(from, top, Math.max(to - from, 2), height);
    }
    ctx.restore();
  }

  // Breakers: a row for each provider, its position above, its faults below.
  function drawLanes(u, rows, run) {
    const { ctx } = u, { left, top, width, height } = u.bbox, ratio = devicePixelRatio || 1;
    const rowHeight = height / rows.length, end = run.step_s * run.arrivals.length;
    const x = (at) => Math.min(left + width, Math.max(left, u.valToPos(at, "x", true)));
    ctx.save();
    ctx.font = `${11 * ratio}px system-ui, sans-serif`;
    ctx.textBaseline = "middle";
    ctx.textAlign = "left";
    rows.forEach((row, index) => {
      const y = top + index * rowHeight, gap = 3 * ratio, hasFaults = row.shades.length > 0;
      const band = (rowHeight - 2 * gap) * (row.moves && hasFaults ? 0.5 : row.moves ? 1 : 0);
      const moves = row.moves ? [{ at_s: 0, gate: "closed" }, ...row.moves] : [];
      moves.forEach((move, at) => {
        const from = x(move.at_s), to = x(at + 1 < moves.length ? moves[at + 1].at_s : end);
        if (to <= from && move.gate === "closed") return;
        ctx.fillStyle = colour(`--${move.gate.replace("_", "-")}`);
        ctx.fillRect(from, y + gap, Math.max(to - from, move.gate === "closed" ? 0 : ratio), band);
      });
      for (const each of row.shades) {
        const from = x(each.at_s), to = x(each.end_s), strip = rowHeight - 2 * gap - band - gap / 2;
        if (to <= left || from >= left + width) continue;
        ctx.fillStyle = colour("--fault-strip");
        ctx.fillRect(from, y + gap + band + gap / 2, Math.max(to - from, 2 * ratio), strip);
        ctx.fillStyle = colour("--ink");
        const text = shorten(each.what, ctx, to - from - 8 * ratio);
        if (text.length > 1) ctx.fillText(text, from + 4 * ratio, y + gap + band + gap / 2 + strip / 2);
      }
    });
    ctx.restore();
  }

  function build(section) {
    const run = runs[Number(section.dataset.run)];
    const count = run.arrivals.length, step = run.step_s, end = count * step;
    const xs = Array.from({ length: count }, (_, index) => index * step);
    const perSecond = (counts) => counts.map((each) => each / step);
    const charts = [], key = `run-${section.dataset.run}`;
    let isFollowing = false;

    function follow(u, scale) {
      if (scale !== "x" || isFollowing) return;
      isFollowing = true;
      const { min, max } = u.scales.x;
      for (const each of charts) {
        if (each !== u && (each.scales.x.min !== min || each.scales.x.max !== max)) each.setScale("x", { min, max });
      }
      isFollowing = false;
    }

    function chart(name, height, data, series, more = {}) {
      const place = section.querySelector(`[data-chart="${name}"]`);
      const axis = { stroke: colour("--soft"), font: "12px system-ui, sans-serif", grid: { stroke: colour("--grid"), width: 1 }, ticks: { stroke: colour("--grid"), width: 1, size: 5 } };
      const opts = {
        width: place.clientWidth, height, padding: [8, RIGHT, 0, 0],
        cursor: { sync: { key, setSeries: false }, drag: { x: true, y: false }, points: { size: 6 } },
        scales: { x: { time: false, range: (u, min, max) => [Math.max(0, min ?? 0), Math.min(end, max ?? end)] }, y: { range: (u, min, max) => [0, Math.max(1, max ?? 1) * 1.05] } },
        axes: [
          { ...axis, incrs: STEPS, space: 70, size: 28, values: (u, at, _axis, _space, step) => at.map((each) => clock(each, end > 3600 && step >= 60)) },
          { ...axis, size: LEFT, values: (u, at) => at.map((each) => each.toLocaleString("en")), ...more.y },
        ],
        series: [{ label: "at", value: (u, at) => (at == null ? "–" : clock(at)) }, ...series],
        hooks: { drawClear: [(u) => shade(u, run.shades)], setScale: [follow], draw: more.draw ? [more.draw] : [], ready: [showPeaks], setLegend: [showPeaks] },
        ...(more.scales ? { scales: { x: { time: false, range: (u, min, max) => [Math.max(0, min ?? 0), Math.min(end, max ?? end)] }, ...more.scales } } : {}),
      };
      charts.push(new uPlot(opts, [xs, ...data], place));
    }

    // Without a cursor the legend has each line's highest value, and no time.
    function showPeaks(u) {
      const isIdle = u.legend.idx == null;
      u.root.querySelectorAll(".u-legend .u-series").forEach((row, index) => {
        if (index === 0) row.style.display = isIdle ? "none" : "";
        else if (isIdle) {
          const peak = u.data[index].reduce((most, each) => Math.max(most, each ?? 0), 0);
          row.querySelector(".u-value").textContent = `at most ${u.series[index].value(u, peak)}`;
        }
      });
    }

    const rate = (u, value) => (value == null ? "–" : `${value.toLocaleString("en", { maximumFractionDigits: 1 })}/s`);
    const number = (u, value) => (value == null ? "–" : value.toLocaleString("en"));
    const line = (label, stroke, more) => ({ label, stroke: colour(stroke), width: 1.5, points: { show: false }, value: rate, ...more });
    const names = Object.keys(run.attempts);

    chart("flow", 190, [perSecond(run.arrivals), perSecond(run.acceptances)], [line("submitted", "--came"), line("accepted by a provider", "--went")]);
    chart("backlog", 150, [run.backlog], [line("backlog", "--waits", { fill: colour("--waits-fill"), value: number })]);
    for (const what of ["attempts", "sent"]) {
      chart(what, 170, names.map((name) => perSecond(run[what][name])),
        names.map((name, index) => line(name, `--p${(index % 6) + 1}`)));
    }

    const rows = names.map((name) => ({ name, moves: run.gates[name] ?? null, shades: run.shades.filter((each) => each.providers.includes(name)) }));
    const ours = run.shades.filter((each) => each.providers.length === 0);
    if (ours.length) rows.push({ name: "gateway", moves: null, shades: ours });
    chart("breakers", 34 + rows.length * 38, [xs.map(() => null)], [{ label: "breaker" }], {
      scales: { y: { range: [0, rows.length], dir: -1 } },
      y: {
        grid: { show: false }, ticks: { show: false }, splits: () => rows.map((_, index) => index + 0.5),
        values: (u) => rows.map((row) => shorten(row.name, u.ctx, (LEFT - 28) * (devicePixelRatio || 1))),
      },
      draw: (u) => drawLanes(u, rows, run),
    });
    drawn.set(section, charts);
    section.dataset.drawn = String(charts.length);
  }

  function forget(section) {
    for (const each of drawn.get(section) ?? []) each.destroy();
    drawn.delete(section);
  }

  const sections = [...document.querySelectorAll("section[data-run]")];
  sections.forEach(build);

  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    for (const section of [...drawn.keys()]) { forget(section); build(section); }
  });
  let timer = 0;
  addEventListener("resize", () => {
    clearTimeout(timer);
    timer = setTimeout(() => {
      for (const charts of drawn.values()) for (const each of charts) each.setSize({ width: each.root.parentElement.clientWidth, height: each.height });
    }, 100);
  });

  for (const button of document.querySelectorAll("button[data-copy]")) {
    button.hidden = false;
    button.addEventListener("click", () => {
      const range = document.createRange();
      range.selectNodeContents(button.parentElement.querySelector("code"));
      getSelection().removeAllRanges();
      getSelection().addRange(range);
      button.textContent = document.execCommand("copy") ? "copied" : "selected";
    });
  }
})();
