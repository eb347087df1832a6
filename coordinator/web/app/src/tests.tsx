// How well a job does: its own evaluations, and what coordinator evaluate has had tested.

import { useState } from "preact/hooks";
import { useAnswer } from "./answer";
import type { Job, Tested } from "./api";
import { dated, loss, percent, whole } from "./format";
import { Section, State, Table } from "./parts";
import { refetch } from "./state";

/** How many rows are shown before they are asked for: a job of a hundred epochs would fill a phone ten times. */
const few = 10;

export function Evaluations({ job: j }: { job: Job }) {
  const [all, setAll] = useState(false);
  if (j.evaluations.length === 0) return null;
  const newest = [...j.evaluations].reverse();
  return (
    <Section title="Evaluations" id="evaluations">
      <Table label="Evaluations, newest first" heads={["Epoch", "Step", "Training loss", "Test loss", "Top-1 error",
        "Top-5 error", "Rate"]} right={[0, 1, 2, 3, 4, 5, 6]}>
        {(all ? newest : newest.slice(0, few)).map((e) => (
          <tr key={e.step}>
            <th scope="row" class="n">{e.epoch}</th><td class="n">{whole(e.step)}</td>
            <td class="n">{loss(e.train_loss)}</td><td class="n">{loss(e.loss)}</td>
            <td class="n">{percent(e.top1_errors, e.images)}</td><td class="n">{percent(e.top5_errors, e.images)}</td>
            <td class="n">{e.rate === 0 ? "–" : e.rate.toPrecision(3)}</td>
          </tr>
        ))}
      </Table>
      {newest.length > few && (
        <button type="button" aria-expanded={all} onClick={() => setAll(!all)}>
          {all ? `newest ${few} only` : `all ${newest.length} evaluations`}
        </button>
      )}
    </Section>
  );
}

export function Tests({ job }: { job: string }) {
  const all = useAnswer<{ evaluations: Tested[] }>(`evaluations?job=${encodeURIComponent(job)}`, refetch.value);
  if (all === null) return null;
  return (
    <Section title="Tested afterwards" id="tests">
      {all.evaluations.length === 0
        ? <p class="empty">None of its checkpoints yet. Have the newest tested with <code>coordinator evaluate {job}
          </code></p>
        : (
          <Table label="Tests, newest first" heads={["Test", "State", "Models", "Pack", "Views", "Images", "Loss",
            "Top-1 error", "Top-5 error", "Asked for"]} right={[0, 4, 5, 6, 7, 8]}>
            {[...all.evaluations].reverse().map((t) => <Row key={t.id} of={t} />)}
          </Table>
        )}
    </Section>
  );
}

function Row({ of: t }: { of: Tested }) {
  const s = t.state === "done" ? t.sum : null;
  return (
    <tr>
      <th scope="row" class="n">{t.id}</th>
      <td><State state={t.state} />
        {t.state !== "done" && <small>{t.done} of {t.parts} parts{t.reason === "" ? "" : `: ${t.reason}`}</small>}</td>
      <td>{t.models.map((m) => `${m.job}, step ${whole(m.step)}`).join("; ")}</td>
      <td title={t.pack?.path}>{t.pack?.path.split("/").at(-1) ?? "–"}</td>
      <td class="n">{t.views}</td>
      <td class="n">{s === null ? "–" : whole(s.images)}</td>
      <td class="n">{s === null ? "–" : loss(s.loss / Math.max(s.images, 1))}</td>
      <td class="n">{s === null ? "–" : percent(s.top1_errors, s.images)}</td>
      <td class="n">{s === null ? "–" : percent(s.top5_errors, s.images)}</td>
      <td class="time">{dated(t.requested)}</td>
    </tr>
  );
}
