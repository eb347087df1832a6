// What the page knows: signals, kept up to date by one stream of server-sent events.

import { signal } from "@preact/signals";
import { get, jobPath, Refused } from "./api";
import type { Cluster, Job, LogEvent, Series } from "./api";
import { listen, pause } from "./sse";

export const jobs = signal<Job[] | null>(null);
export const cluster = signal<Cluster | null>(null);
export const details = signal<Record<string, Job>>({});
export const events = signal<LogEvent[]>([]);
/** By job: grows in place, told of by seriesVersion. */
export const series = new Map<string, Map<string, Series>>();
export const seriesVersion = signal(0);

/** live: the stream stands; lost: what is shown is of lastHeard. */
export const link = signal<"connecting" | "live" | "lost">("connecting");
export const lastHeard = signal(0);
/** Why nobody answers for the cluster; empty while somebody does. */
export const leaderless = signal("");
export const needToken = signal(false);
/** Counts up when the page should ask anew for what no stream brings. */
export const refetch = signal(0);

const keptEvents = 5000;
const keptPoints = 20000;

function addEvents(more: LogEvent[]) {
  const last = events.value.at(-1)?.index ?? 0;
  const fresh = more.filter((e) => e.index > last);
  if (fresh.length > 0) events.value = [...events.value, ...fresh].slice(-keptEvents);
  if (fresh.some((e) => e.kind.startsWith("checkpoint") || e.kind === "test")) refetch.value++;
}

function addSeries(job: string, more: Series[]) {
  const of = series.get(job) ?? new Map<string, Series>();
  series.set(job, of);
  for (const s of more) {
    const known = of.get(s.name);
    if (known === undefined) {
      of.set(s.name, s);
      continue;
    }
    const last = known.time.at(-1) ?? 0;
    for (let i = 0; i < s.time.length; i++) {
      if (s.time[i]! <= last) continue;
      for (const k of ["step", "time", "mean", "min", "max"] as const) known[k].push(s[k][i]!);
    }
    if (known.time.length > keptPoints) of.set(s.name, halved(known));
  }
  seriesVersion.value++;
}

/** Neighbours made one: as the coordinator does with what is old. */
function halved(s: Series): Series {
  const out: Series = { name: s.name, step: [], time: [], mean: [], min: [], max: [] };
  for (let i = 0; i < s.time.length; i += 2) {
    const j = Math.min(i + 1, s.time.length - 1);
    out.step.push(s.step[j]!);
    out.time.push(s.time[j]!);
    out.mean.push((s.mean[i]! + s.mean[j]!) / 2);
    out.min.push(Math.min(s.min[i]!, s.min[j]!));
    out.max.push(Math.max(s.max[i]!, s.max[j]!));
  }
  return out;
}

function receive(event: string, data: string) {
  switch (event) {
    case "leader":
      leaderless.value = (JSON.parse(data) as { text: string }).text;
      break;
    case "jobs":
      jobs.value = (JSON.parse(data) as { jobs: Job[] }).jobs;
      break;
    case "cluster":
      cluster.value = JSON.parse(data) as Cluster;
      break;
    case "job": {
      const j = JSON.parse(data) as Job;
      details.value = { ...details.value, [j.name]: j };
      break;
    }
    case "samples": {
      const s = JSON.parse(data) as { job: string; series: Series[] };
      addSeries(s.job, s.series);
      break;
    }
    case "events":
      addEvents((JSON.parse(data) as { events: LogEvent[] }).events);
      break;
    case "gap":
      void load([...followed]);
      break;
    case "at":
      lastHeard.value = Date.now();
      break;
  }
}

let followed: string[] = [];
let cursor = "";
let stop = new AbortController();

/** Has the stream bring the details of some jobs, after what there is of them already. */
export function follow(names: string[]) {
  if (names.join("\n") === followed.join("\n") && cursor !== "") return;
  followed = names;
  stop.abort();
  stop = new AbortController();
  void keep(stop.signal);
}

async function load(names: string[]) {
  let first = "";
  for (const name of names) {
    const s = await get<{ cursor: string; series: Series[] }>(`${jobPath(name)}/series?points=4000`).catch(missing);
    if (s === null) continue;
    series.delete(name);
    addSeries(name, s.series);
    if (first === "") first = s.cursor;
  }
  const e = await get<{ events: LogEvent[] }>("events?limit=1000");
  events.value = [];
  addEvents(e.events);
  cursor = first === "" ? cursor : first;
}

/** A coordinator that has just started has not looked at its jobs yet; the stream will bring them. */
function missing(e: unknown): null {
  if (e instanceof Refused && e.code === 404) return null;
  throw e;
}

async function keep(signal: AbortSignal) {
  let failed = 0;
  let loaded = false;
  const heard = () => {
    failed = 0;
    lastHeard.value = Date.now();
    link.value = "live";
  };
  while (!signal.aborted) {
    try {
      if (!loaded) {
        await load(followed);
        loaded = true;
      }
      const query = new URLSearchParams(followed.map((name) => ["job", name]));
      await listen(`stream?${query}`, cursor, signal, heard, (event, data, id) => {
        if (event !== "") receive(event, data);
        if (id !== "") cursor = id;
      });
    } catch (e) {
      if (e instanceof Refused && e.code === 401) needToken.value = true;
    }
    if (signal.aborted) return;
    link.value = "lost";
    await pause(failed++);
    while (needToken.value && !signal.aborted) await new Promise((done) => setTimeout(done, 200));
  }
}
