// From what jobs measured to lines and marks over an axis.

import type { Job, LogEvent, Series } from "./api";
import { smooth, smoothing, xAxis } from "./chart";
import type { Line, Mark } from "./chart";

/**
 * The places of a series that ascend along the axis. Where a job went back to an older step, what it did since counts:
 * the same steps again.
 */
function ascending(s: Series): number[] {
  const at: number[] = [];
  let least = Infinity;
  for (let i = s.step.length - 1; i >= 0; i--) {
    if (xAxis.value === "time" || s.step[i]! < least) {
      least = s.step[i]!;
      at.push(i);
    }
  }
  return at.reverse();
}

export function axisOf(s: Series): { xs: number[]; at: number[] } {
  const at = ascending(s);
  return { at, xs: at.map((i) => (xAxis.value === "step" ? s.step[i]! : s.time[i]! / 1000)) };
}

/** A measured quantity: faint as it is, and smoothed. */
export function curve(s: Series | undefined, label: string, ink: string, times = 1): Line[] {
  if (s === undefined) return [{ label, ink, xs: [], ys: [] }];
  const { xs, at } = axisOf(s);
  const ys = at.map((i) => times * s.mean[i]!);
  if (smoothing.value === 0) return [{ label, ink, xs, ys }];
  return [
    { label: `${label}, as measured`, ink, xs, ys, faint: true, silent: true, width: 1 },
    { label, ink, xs, ys: smooth(ys, smoothing.value), width: 2 },
  ];
}

/** When a step was done, in seconds since 1970, and the other way round, as far as a series says. */
export function converter(s: Series | undefined): { time: (step: number) => number | null;
  step: (ms: number) => number | null } {
  if (s === undefined || s.step.length === 0) return { time: () => null, step: () => null };
  const { step, time } = s;
  return {
    time: (wanted) => {
      for (let i = step.length - 1; i >= 0; i--) if (step[i]! <= wanted) return time[i]! / 1000;
      return wanted < step[0]! ? time[0]! / 1000 : null;
    },
    step: (ms) => {
      if (ms < time[0]!) return null;
      let lo = 0;
      let hi = time.length - 1;
      while (lo < hi) {
        const mid = (lo + hi + 1) >> 1;
        if (time[mid]! <= ms) lo = mid;
        else hi = mid - 1;
      }
      return step[lo]!;
    },
  };
}

/** A quantity of a job's evaluations. */
export function evaluated(j: Job, s: Series | undefined, label: string, ink: string,
  value: (e: Job["evaluations"][number]) => number | null, dash = false): Line {
  const line: Line = { label, ink, xs: [], ys: [], dots: true, dash };
  const to = converter(s);
  let last = -Infinity;
  for (const e of j.evaluations) {
    const x = xAxis.value === "step" ? e.step : to.time(e.step);
    if (x === null || x <= last) continue;
    last = x;
    line.xs.push(x);
    line.ys.push(value(e));
  }
  return line;
}

/** What happens to a job that its curves may show. */
const marked = ["generation", "leader", "rate", "guard", "hang", "checkpoint", "checkpoint-bad", "job"];

export function marksOf(job: string, events: LogEvent[], s: Series | undefined): Mark[] {
  const to = converter(s);
  const out: Mark[] = [];
  for (const e of events) {
    const mine = e.job === job || (e.job === "" && e.kind === "leader");
    if (!mine || !marked.includes(e.kind) || e.at === null) continue;
    const ms = Date.parse(e.at);
    const named = /\bstep (\d+)/.exec(e.text);
    const step = e.kind === "checkpoint" && named !== null ? Number(named[1]) : to.step(ms);
    const x = xAxis.value === "step" ? step : ms / 1000;
    if (x !== null) out.push({ x, kind: e.kind, text: e.text });
  }
  return out;
}
