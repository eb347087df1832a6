// Charts: uPlot with a legend of our own, smoothing, marks of events, and keys.

import { signal } from "@preact/signals";
import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import uPlot from "uplot";
import { figures, whole } from "./format";
import { theme } from "./theme";

export interface Line {
  label: string;
  ink: string; // a custom property of the style sheet
  xs: number[]; // ascending
  ys: (number | null)[];
  width?: number;
  faint?: boolean;
  dots?: boolean;
  dash?: boolean;
  silent?: boolean; // not in the legend
  fill?: boolean;
  own?: number[]; // what the legend says, where ys are sums
}

export interface Mark { x: number; kind: string; text: string }

export const xAxis = signal<"step" | "time">("step");
export const logScale = signal(false);
export const smoothing = signal(0.6);
export const showMarks = signal(true);

/** Beside the largest value before it, what a mean keeps of it behind values that are 0 is nothing. */
const nothing = 1e-4;

/** Exponential mean, without the pull to zero at the start, and without the endless tail behind what has become 0. */
export function smooth(ys: number[], weight: number): number[] {
  if (weight <= 0) return ys;
  const out = new Array<number>(ys.length);
  let sum = 0;
  let norm = 0;
  let largest = 0;
  for (let i = 0; i < ys.length; i++) {
    sum = weight * sum + (1 - weight) * ys[i]!;
    norm = weight * norm + (1 - weight);
    largest = Math.max(largest, Math.abs(ys[i]!));
    if (ys[i] === 0 && Math.abs(sum / norm) < nothing * largest) sum = 0;
    out[i] = sum / norm;
  }
  return out;
}

/** Puts lines over one ascending axis: a line has nothing where it has no point. */
export function align(lines: Line[]): [number[], ...(number | null | undefined)[][]] {
  const [first] = lines;
  if (first !== undefined && lines.every((l) => l.xs === first.xs)) return [first.xs, ...lines.map((l) => l.ys)];
  const xs: number[] = [];
  const at = lines.map(() => 0);
  const out: (number | null | undefined)[][] = lines.map(() => []);
  for (;;) {
    let next = Infinity;
    lines.forEach((l, k) => (next = Math.min(next, l.xs[at[k]!] ?? Infinity)));
    if (next === Infinity) return [xs, ...out];
    xs.push(next);
    lines.forEach((l, k) => {
      const here = l.xs[at[k]!] === next;
      out[k]!.push(here ? l.ys[at[k]!] : undefined);
      while (l.xs[at[k]!] === next) at[k]!++;
    });
  }
}

function ink(name: string): string {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function xText(v: number): string {
  return xAxis.value === "step" ? `step ${whole(v)}` : new Date(v * 1000).toLocaleTimeString("en-GB");
}

interface Props {
  title: string;
  unit: string;
  lines: Line[];
  marks?: Mark[];
  log?: boolean;
  height?: number;
  zero?: boolean;
  waiting?: string;
}

function options(p: Props, show: boolean, width: number, marks: () => Mark[],
  moved: (u: uPlot) => void): uPlot.Options {
  const axis = ink("--faint");
  const grid = { stroke: ink("--line"), width: 1 };
  const font = `11px ${ink("--font")}`;
  const ticks = { show: false };
  return {
    width,
    height: p.height ?? 230,
    legend: { show: false },
    padding: [10, 18, 0, 0],
    scales: {
      x: { time: xAxis.value === "time" },
      y: p.log ? { distr: 3 } : p.zero ? { range: (_, __, max) => [0, max > 0 ? max * 1.06 : 1] } : {},
    },
    axes: [
      { show, stroke: axis, grid, font, ticks, size: 28,
        ...(xAxis.value === "step" ? { values: (_: uPlot, v: number[]) => v.map((x) => (x % 1 === 0 ? short(x) : "")) }
          : {}) },
      { show, stroke: axis, grid, font, ticks, size: 52,
        values: (_, v) => v.map((y) => (y === null || y === undefined ? "" : tick(y))) },
    ],
    cursor: { points: { size: 6 }, drag: { x: true, y: false, setScale: true }, focus: { prox: 24 } },
    series: [
      {},
      ...p.lines.map((l): uPlot.Series => ({
        label: l.label,
        stroke: ink(l.ink) + (l.faint ? "55" : ""),
        width: l.width ?? 1.5,
        spanGaps: true,
        ...(l.fill ? { fill: ink(l.ink) } : {}),
        ...(l.dash ? { dash: [5, 4] } : {}),
        points: { show: l.dots ?? false, size: 5, fill: ink(l.ink) },
      })),
    ],
    hooks: {
      setCursor: [moved],
      drawClear: [(u) => drawMarks(u, marks())],
    },
  };
}

/** A number at an axis, without zeros behind it. */
const tick = (y: number) => figures(y).replace(/(\.\d*?)0+$/, "$1").replace(/\.$/, "");

const short = (x: number) => (x >= 10000 ? `${figures(x / 1000).replace(/\.0+$/, "")}k` : whole(x));

const markInk: Record<string, string> = {
  generation: "--bad", leader: "--violet", checkpoint: "--faint", rate: "--good", guard: "--bad", hang: "--warn",
};

function drawMarks(u: uPlot, marks: Mark[]) {
  const { ctx } = u;
  const { top, height, left, width } = u.bbox;
  const dot = devicePixelRatio;
  ctx.save();
  for (const m of marks) {
    const small = m.kind === "checkpoint" || m.kind === "hang";
    const x = u.valToPos(m.x, "x", true);
    if (x < left || x > left + width) continue;
    ctx.strokeStyle = ctx.fillStyle = ink(markInk[m.kind] ?? "--faint");
    ctx.globalAlpha = m.kind === "checkpoint" ? 0.45 : 0.9;
    ctx.lineWidth = dot;
    ctx.setLineDash(m.kind === "checkpoint" ? [2 * dot, 3 * dot] : []);
    ctx.beginPath();
    ctx.moveTo(x, top);
    ctx.lineTo(x, top + (small ? 8 * dot : height));
    ctx.stroke();
    if (small) continue;
    ctx.beginPath();
    ctx.moveTo(x - 4 * dot, top);
    ctx.lineTo(x + 4 * dot, top);
    ctx.lineTo(x, top + 6 * dot);
    ctx.fill();
  }
  ctx.restore();
}

export function Chart(p: Props) {
  const box = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot | null>(null);
  const marks = useRef<Mark[]>([]);
  const zoomed = useRef(false);
  const [at, setAt] = useState<number | null>(null);
  const [hidden, setHidden] = useState<Record<string, boolean>>({});
  marks.current = showMarks.value ? (p.marks ?? []) : [];
  const data = useMemo(() => align(p.lines), [p.lines]); // not anew because the cursor moves
  const looks = p.lines.map((l) => [l.label, l.ink, l.dots, l.faint]);
  const shape = JSON.stringify([looks, data[0].length > 0, p.log, xAxis.value, theme.value]);

  useEffect(() => {
    const el = box.current!;
    const u = new uPlot(options(p, data[0].length > 0, Math.max(el.clientWidth, 120), () => marks.current,
      (it) => setAt(it.cursor.idx ?? null)), data as uPlot.AlignedData, el);
    u.over.addEventListener("mouseup", () => (zoomed.current = zoomed.current || u.select.width > 0));
    u.over.addEventListener("dblclick", () => (zoomed.current = false));
    u.over.addEventListener("mouseleave", () => setAt(null));
    plot.current = u;
    zoomed.current = false;
    const sized = new ResizeObserver(() => u.setSize({ width: Math.max(el.clientWidth, 120), height: u.height }));
    sized.observe(el);
    p.lines.forEach((l, i) => hidden[l.label] && u.setSeries(i + 1, { show: false }));
    return () => {
      sized.disconnect();
      u.destroy();
      plot.current = null;
    };
  }, [shape]);

  useEffect(() => {
    const u = plot.current;
    if (u === null) return;
    u.setData(data as uPlot.AlignedData, !zoomed.current);
    if (zoomed.current) u.redraw(false);
  }, [data, showMarks.value]);

  const toggle = (l: Line) => {
    const now = !hidden[l.label];
    setHidden({ ...hidden, [l.label]: now });
    p.lines.forEach((other, i) => other.label === l.label && plot.current?.setSeries(i + 1, { show: !now }));
  };
  const key = (e: KeyboardEvent) => {
    const u = plot.current;
    const by = { ArrowLeft: -1, ArrowRight: 1 }[e.key];
    const last = data[0].length - 1;
    if (u === null || by === undefined || last < 0) return;
    e.preventDefault();
    const i = Math.min(Math.max((at ?? last) + by * (e.shiftKey ? Math.ceil(last / 20) : 1), 0), last);
    u.setCursor({ left: u.valToPos(data[0][i] ?? 0, "x"), top: 10 });
    setAt(i);
  };
  const x = at === null ? undefined : data[0][at];
  return (
    <figure class="chart">
      <figcaption>
        <h3>{p.title}</h3> <span class="unit">{p.unit}</span>
        <span class="where">{x === undefined ? "" : xText(x)}</span>
      </figcaption>
      <div class="plot" ref={box} tabIndex={0} role="group" onKeyDown={key}
        aria-label={`${p.title}, ${p.unit}. ${summary(p.lines)} Arrow keys move along the curve.`} />
      {p.waiting !== undefined && data[0].length === 0 && <p class="waiting">{p.waiting}</p>}
      <div class="legend">
        {p.lines.map((l, i) => l.silent ? null : (
          <button key={l.label} type="button" class="key" aria-pressed={!hidden[l.label]} onClick={() => toggle(l)}>
            <i class={l.dash ? "dashed" : ""} style={{ color: `var(${l.ink})` }} />{l.label}
            <b>{figures(nearest(l.own ?? data[i + 1]!, at))}</b>
          </button>
        ))}
        <span class="note">{x === undefined ? "" : markAt(plot.current, marks.current, x)}</span>
      </div>
    </figure>
  );
}

function summary(lines: Line[]): string {
  return lines.filter((l) => !l.silent && l.ys.length > 0)
    .map((l) => `${l.label} ${figures(l.ys.at(-1) ?? null)}.`).join(" ");
}

/** The value at or before a place, the last one if none is chosen. */
function nearest(ys: (number | null | undefined)[], at: number | null): number | null {
  for (let i = at ?? ys.length - 1; i >= 0; i--) {
    const y = ys[i];
    if (y !== null && y !== undefined) return y;
  }
  return null;
}

/** What the mark beside a place says. */
function markAt(u: uPlot | null, marks: Mark[], x: number): string {
  if (u === null) return "";
  let best = 8;
  let text = "";
  for (const m of marks) {
    const d = Math.abs(u.valToPos(m.x, "x") - u.valToPos(x, "x"));
    if (d < best) [best, text] = [d, m.text];
  }
  return text;
}

export function ChartControls() {
  return (
    <div class="controls" role="group" aria-label="How curves are drawn">
      <Choice label="Axis" options={["step", "time"]} value={xAxis.value}
        choose={(v) => (xAxis.value = v as "step" | "time")} />
      <Choice label="Scale" options={["linear", "log"]} value={logScale.value ? "log" : "linear"}
        choose={(v) => (logScale.value = v === "log")} />
      <label>Smoothing
        <input type="range" min="0" max="0.99" step="0.01" value={smoothing.value}
          onInput={(e) => (smoothing.value = Number(e.currentTarget.value))} />
        <output>{smoothing.value.toFixed(2)}</output>
      </label>
      <label><input type="checkbox" checked={showMarks.value}
        onChange={(e) => (showMarks.value = e.currentTarget.checked)} />Events</label>
    </div>
  );
}

export function Choice(p: { label: string; options: string[]; value: string; choose: (v: string) => void }) {
  return (
    <span class="choice" role="group" aria-label={p.label}>
      {p.options.map((o) => (
        <button key={o} type="button" aria-pressed={o === p.value} onClick={() => p.choose(o)}>{o}</button>
      ))}
    </span>
  );
}
