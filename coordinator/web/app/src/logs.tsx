// Workers' logs, as they come.

import { useEffect, useRef, useState } from "preact/hooks";
import type { LogLine } from "./api";
import { dated } from "./format";
import { Section } from "./parts";
import { listen, pause } from "./sse";
import { cluster, jobs, needToken } from "./state";

const keptLines = 5000;
const shownLines = 1000;

interface Wanted { job: string; worker: string; level: string; text: string }

/** The lines that are wanted, from the leader's memory and then as they come. */
function useLines(want: Wanted): { lines: LogLine[]; trouble: string } {
  const [lines, setLines] = useState<LogLine[]>([]);
  const [trouble, setTrouble] = useState("");
  const query = new URLSearchParams(Object.entries(want).filter(([, v]) => v !== "")).toString();
  useEffect(() => {
    const stop = new AbortController();
    const keep = async () => {
      let failed = 0;
      let cursor = "";
      setLines([]);
      while (!stop.signal.aborted) {
        try {
          await listen(`logs/stream?${query}`, cursor, stop.signal, () => (failed = 0), (event, data, id) => {
            if (event === "trouble") setTrouble((JSON.parse(data) as { text: string }).text);
            if (event !== "logs") return;
            setTrouble("");
            if (cursor.split("-")[0] !== id.split("-")[0]) setLines([]); // another leader's memory
            cursor = id;
            const more = (JSON.parse(data) as { records: LogLine[] }).records;
            if (more.length > 0) setLines((known) => [...known, ...more].slice(-keptLines));
          });
        } catch {
          setTrouble("this coordinator does not answer");
        }
        if (!stop.signal.aborted) await pause(failed++);
        while (needToken.value && !stop.signal.aborted) await new Promise((done) => setTimeout(done, 200));
      }
    };
    const later = setTimeout(() => void keep(), 150); // while somebody types
    return () => {
      clearTimeout(later);
      stop.abort();
    };
  }, [query]);
  return { lines, trouble };
}

export function LogLines({ job }: { job?: string }) {
  const [want, setWant] = useState<Wanted>({ job: job ?? "", worker: "", level: "", text: "" });
  const { lines, trouble } = useLines(want);
  const box = useRef<HTMLOListElement>(null);
  const stick = useRef(true);
  useEffect(() => {
    if (stick.current && box.current !== null) box.current.scrollTop = box.current.scrollHeight;
  }, [lines]);
  const set = (change: Partial<Wanted>) => setWant({ ...want, ...change });
  const workers = cluster.value?.workers ?? [];
  return (
    <Section title="Logs of workers" id="logs" aside={
      <span class="filter">
        {job === undefined && <Select label="Job" all="all jobs" value={want.job} choose={(v) => set({ job: v })}
          options={(jobs.value ?? []).map((j) => [j.name, j.name])} />}
        <Select label="Worker" all="all workers" value={want.worker} choose={(v) => set({ worker: v })}
          options={workers.map((w) => [w.id, w.name])} />
        <Select label="Level" all="all levels" value={want.level} choose={(v) => set({ level: v })}
          options={[["warn", "WARN and above"], ["error", "ERROR"]]} />
        <input type="search" placeholder="filter" aria-label="Filter lines" value={want.text}
          onInput={(e) => set({ text: e.currentTarget.value })} />
      </span>
    }>
      <ol class="logs" ref={box} tabIndex={0} aria-label="Lines, newest last" onScroll={(e) => {
        const el = e.currentTarget;
        stick.current = el.scrollHeight - el.scrollTop - el.clientHeight < 24;
      }}>
        {lines.slice(-shownLines).map((l) => (
          <li key={l.sequence} class={l.level.toLowerCase()}>
            <time>{dated(l.at)}</time><b>{l.level}</b><span class="who">{l.worker_name}</span>
            <span class="said">{l.left_out > 0 && <i>({l.left_out} lines were too many) </i>}{l.text}</span></li>
        ))}
        {lines.length === 0 && (
          <li class="none">{trouble === "" ? "no such line since this leader leads" : trouble}</li>)}
      </ol>
      {trouble !== "" && lines.length > 0 && <p class="hint" role="status">{trouble}; trying again</p>}
    </Section>
  );
}

function Select(p: { label: string; all: string; value: string; options: string[][]; choose: (v: string) => void }) {
  return (
    <select aria-label={p.label} value={p.value} onChange={(e) => p.choose(e.currentTarget.value)}>
      <option value="">{p.all}</option>
      {p.options.map(([value, name]) => <option key={value} value={value}>{name}</option>)}
    </select>
  );
}

export const LogsPage = () => <><h1>Logs</h1><LogLines /></>;
