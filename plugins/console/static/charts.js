// Draws what was stored over time, with uPlot, and keeps it fresh.
"use strict";

(() => {
  const EVERY = 10000;
  const HEIGHT = 190;
  const COLOURS = ["--live", "--second", "--good", "--third"];
  const drawn = new Map();

  const colour = (name) => {
    // light-dark() is resolved where it is used, so it is read off an element that wears it
    const probe = document.createElement("i");
    probe.style.color = `var(${name})`;
    document.body.append(probe);
    const found = getComputedStyle(probe).color;
    probe.remove();
    return found;
  };

  const utc = (seconds) => uPlot.tzDate(new Date(seconds * 1000), "Etc/UTC");
  const number = (value) => (value == null ? "–" : Number(value.toPrecision(4)).toLocaleString("en"));

  const described = (chart) => chart.series.map((line) => {
    const known = line.values.filter((value) => value != null);
    const [low, high] = [Math.min(...known), Math.max(...known)];
    return known.length ? `${line.name}: last ${number(known.at(-1))}, between ${number(low)} and ${number(high)}` : "";
  }).filter(Boolean).join("; ");

  const data = (chart) => {
    const level = chart.threshold == null ? [] : [chart.times.map(() => chart.threshold)];
    return [chart.times, ...chart.series.map((line) => line.values), ...level];
  };

  const figure = (chart) => {
    const made = document.createElement("figure");
    const caption = document.createElement("figcaption");
    const plot = document.createElement("div");
    plot.setAttribute("role", "img");
    made.className = "chart";
    made.append(caption, plot);
    caption.innerHTML = "<strong></strong> <span class=\"faint\"></span><p class=\"faint\"></p>";
    return made;
  };

  const clock = (plot, moments) => {
    const span = plot.scales.x.max - plot.scales.x.min;
    const form = uPlot.fmtDate(span > 2 * 86400 ? "{MM}-{DD}" : span > 600 ? "{HH}:{mm}" : "{HH}:{mm}:{ss}");
    return moments.map((moment) => form(utc(moment)));
  };

  const make = (chart, plot) => new uPlot(options(chart, plot.clientWidth), data(chart), plot);
  // while no pointer chooses a moment, the legend tells the last
  const latest = (plot) => {
    if (plot.cursor.idx == null) plot.setLegend({ idx: plot.data[0].length - 1 }, false);
  };

  const options = (chart, width) => {
    const axis = { stroke: colour("--faint"), grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false } };
    const line = (item, place) => ({
      label: item.name,
      stroke: colour(COLOURS[place % COLOURS.length]),
      width: 2,
      spanGaps: true,
      points: { show: item.values.filter((value) => value != null).length < 3 },
      value: (_, value) => number(value),
    });
    const level = { label: "threshold", stroke: colour("--bad"), value: (_, value) => number(value), dash: [6, 4], points: { show: false } };
    return {
      width,
      height: HEIGHT,
      tzDate: utc,
      cursor: { y: false },
      hooks: { setCursor: [latest], ready: [latest] },
      axes: [{ ...axis, values: clock, space: 70 }, { ...axis, size: 60 }],
      series: [
        { label: "UTC", value: "{YYYY}-{MM}-{DD} {HH}:{mm}:{ss}" },
        ...chart.series.map(line),
        ...(chart.threshold == null ? [] : [level]),
      ],
    };
  };

  const draw = (place, chart) => {
    let made = place.querySelector(`[data-chart="${CSS.escape(chart.id)}"]`);
    if (!made) {
      made = figure(chart);
      made.dataset.chart = chart.id;
      place.append(made);
    }
    const [caption, plot] = made.children;
    caption.children[0].textContent = chart.title;
    caption.children[1].textContent = chart.unit;
    caption.children[2].textContent = chart.note;
    plot.setAttribute("aria-label", `${chart.title} over time. ${described(chart)}`);
    const names = chart.series.map((line) => line.name).join();
    const kept = drawn.get(plot);
    if (kept && kept.names === names) {
      kept.chart = chart;
      kept.plot.setData(data(chart));
      return;
    }
    kept?.plot.destroy();
    drawn.set(plot, { names, chart, plot: make(chart, plot) });
    if (!kept) sizes.observe(plot);
  };

  const sizes = new ResizeObserver((entries) => {
    for (const { target } of entries) {
      const kept = drawn.get(target);
      if (kept && target.clientWidth && kept.plot.width !== target.clientWidth) {
        kept.plot.setSize({ width: target.clientWidth, height: HEIGHT });
      }
    }
  });

  const redraw = () => {
    for (const [plot, kept] of drawn) {
      kept.plot.destroy();
      kept.plot = make(kept.chart, plot);
    }
  };

  const refresh = async () => {
    const place = document.querySelector("[data-history]");
    if (place && !document.hidden) {
      for (const plot of drawn.keys()) if (!plot.isConnected) drawn.delete(plot);
      try {
        const answer = await fetch(place.dataset.history, { credentials: "same-origin" });
        if (!answer.ok) throw new Error(String(answer.status));
        const { charts } = await answer.json();
        place.querySelector(".none").hidden = charts.length > 0;
        for (const chart of charts) draw(place, chart);
      } catch {
        // the page itself says when Airflow does not answer; what was drawn stays
      }
    }
    setTimeout(refresh, EVERY);
  };

  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  new MutationObserver(redraw).observe(document.documentElement, { attributeFilter: ["data-theme"] });
  refresh();
})();
