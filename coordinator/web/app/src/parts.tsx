// Small things that several pages have.

import { signal } from "@preact/signals";
import type { ComponentChildren } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { post, Refused } from "./api";
import type { Job, LogEvent } from "./api";
import { dated, whole } from "./format";
import { refetch } from "./state";

export const path = signal(location.pathname + location.search);

export function go(to: string) {
  history.pushState(null, "", to);
  path.value = to;
  scrollTo(0, 0);
}
addEventListener("popstate", () => (path.value = location.pathname + location.search));

export function Link(p: { to: string; children: ComponentChildren; class?: string; current?: boolean }) {
  return (
    <a href={p.to} class={p.class} aria-current={p.current ? "page" : undefined} onClick={(e) => {
      if (e.metaKey || e.ctrlKey || e.shiftKey || e.button !== 0) return;
      e.preventDefault();
      go(p.to);
    }}>{p.children}</a>
  );
}

export const jobLink = (name: string) => `/jobs/${encodeURIComponent(name)}`;

export const State = (p: { state: string }) => <span class={`state ${p.state}`}>{p.state}</span>;

export function Progress(p: { job: Job }) {
  const { step, steps, committed_step: kept, name } = p.job;
  const part = (n: number) => `${(100 * n) / Math.max(steps, 1)}%`;
  return (
    <div class="progress" role="progressbar" aria-valuemin={0} aria-valuemax={steps} aria-valuenow={step}
      aria-label={`${name}: step ${step} of ${steps}, newest checkpoint ${kept}`}>
      <i style={{ width: part(step) }} /><u style={{ left: part(kept) }} title={`checkpoint of step ${whole(kept)}`} />
    </div>
  );
}

export function Figure(p: { label: string; children: ComponentChildren; note?: ComponentChildren }) {
  return <div class="figure"><dt>{p.label}</dt><dd>{p.children}{p.note && <small>{p.note}</small>}</dd></div>;
}

export function Section(p: { title: string; id: string; children: ComponentChildren; aside?: ComponentChildren }) {
  return (
    <section aria-labelledby={p.id}>
      <header><h2 id={p.id}>{p.title}</h2>{p.aside}</header>
      {p.children}
    </section>
  );
}

/** A table that is scrolled sideways where it has no room; the keyboard reaches it. */
export function Table(p: { label: string; heads: string[]; children: ComponentChildren; right?: number[] }) {
  return (
    <div class="table" tabIndex={0} role="region" aria-label={p.label}>
      <table>
        <thead>
          <tr>{p.heads.map((h, i) => <th key={i} scope="col" class={p.right?.includes(i) ? "n" : ""}>{h}</th>)}</tr>
        </thead>
        <tbody>{p.children}</tbody>
      </table>
    </div>
  );
}

/** What is asked before something happens. Fields are inputs with names; body makes of them what is sent. */
interface Question {
  title: string; text: ComponentChildren; verb: string; path: string; grave?: boolean;
  body: object | ((form: FormData) => object); fields?: ComponentChildren;
  then?: (form: FormData) => void; // when it is done
}

const question = signal<Question | null>(null);

/** A button that asks before anything happens. */
export function Action(p: Question & { children: ComponentChildren; label?: string | undefined }) {
  return (
    <button type="button" class={p.grave ? "grave" : ""} aria-label={p.label}
      onClick={() => (question.value = { ...p })}>{p.children}</button>
  );
}

export function Asker() {
  const q = question.value;
  const dialog = useRef<HTMLDialogElement>(null);
  const [said, setSaid] = useState("");
  const [busy, setBusy] = useState(false);
  useEffect(() => {
    setSaid("");
    setBusy(false);
    if (q !== null) dialog.current?.showModal();
  }, [q]);
  if (q === null) return null;
  const end = () => (question.value = null);
  const act = async (e: SubmitEvent) => {
    e.preventDefault();
    const form = new FormData(e.currentTarget as HTMLFormElement);
    setBusy(true);
    setSaid("");
    try {
      await post(q.path, typeof q.body === "function" ? q.body(form) : q.body);
      end();
      refetch.value++;
      q.then?.(form);
    } catch (e) {
      setBusy(false);
      setSaid(e instanceof Refused ? e.message : "the coordinator does not answer; look again, and try once more");
    }
  };
  return (
    <dialog ref={dialog} aria-labelledby="asked" onClose={end}
      onKeyDown={(e) => e.key === "Escape" && end()}>
      <h2 id="asked">{q.title}</h2>
      <p>{q.text}</p>
      <form onSubmit={act}>
        {q.fields}
        {said !== "" && <p role="alert" class="said">{said}</p>}
        <span class="verbs">
          <button type="button" onClick={end}>Cancel</button>
          <button type="submit" class={q.grave ? "grave" : "main"} disabled={busy}>{q.verb}</button>
        </span>
      </form>
    </dialog>
  );
}

const shownEvents = 300;

export function Events(p: { events: LogEvent[]; id: string }) {
  const [text, setText] = useState("");
  const [kind, setKind] = useState("");
  const kinds = [...new Set(p.events.map((e) => e.kind))].sort();
  const wanted = text.toLowerCase();
  const found = p.events.filter((e) => (kind === "" || e.kind === kind) && e.text.toLowerCase().includes(wanted));
  return (
    <Section title="Events" id={p.id} aside={
      <span class="filter">
        <select aria-label="Kind of event" value={kind} onChange={(e) => setKind(e.currentTarget.value)}>
          <option value="">all kinds</option>
          {kinds.map((k) => <option key={k}>{k}</option>)}
        </select>
        <input type="search" placeholder="filter" aria-label="Filter events" value={text}
          onInput={(e) => setText(e.currentTarget.value)} />
      </span>
    }>
      <ol class="events" tabIndex={0} aria-label="Events, newest first">
        {found.slice(-shownEvents).reverse().map((e) => (
          <li key={e.index}><time>{dated(e.at)}</time><span class={`kind ${e.kind}`}>{e.kind}</span>
            <span>{e.text}</span></li>
        ))}
        {found.length === 0 && <li class="none">none</li>}
      </ol>
    </Section>
  );
}
