// All jobs: what waits and why, what runs, what has ended.

import type { Job } from "./api";
import { dated, figures, loss, percent, span, whole } from "./format";
import { Figure, jobLink, Link, Progress, Section, State, Table } from "./parts";
import { Queue } from "./queue";
import { cluster, jobs } from "./state";

export function left(j: Job): string {
  if (j.state !== "running" || j.images_per_second <= 0) return "–";
  return span(((j.steps - j.step) * j.batch) / j.images_per_second);
}

const waiting = ["queued", "recovering", "paused", "preempted"];
const ended = ["done", "stopped", "failed"];

export function Jobs() {
  const all = jobs.value;
  if (all === null) return <p class="empty">Asking the coordinator …</p>;
  if (all.length === 0) {
    return <p class="empty">No jobs yet. Submit one with <code>coordinator job submit JOB.yaml</code></p>;
  }
  const queue = all.filter((j) => waiting.includes(j.state));
  const over = all.filter((j) => ended.includes(j.state)).reverse();
  const under = all.filter((j) => !waiting.includes(j.state) && !ended.includes(j.state));
  const workers = cluster.value?.workers ?? [];
  return (
    <>
      <h1>Jobs</h1>
      <dl class="figures">
        <Figure label="Running">{under.length}</Figure>
        <Figure label="Waiting">{queue.length}</Figure>
        <Figure label="Ended">{over.length}</Figure>
        <Figure label="Workers">{workers.filter((w) => w.state === "connected").length}</Figure>
        <Figure label="Images/s">{figures(under.reduce((sum, j) => sum + j.images_per_second, 0))}</Figure>
      </dl>
      {under.length > 0 && <Group title="Running" id="running" jobs={under} />}
      {queue.length > 0 && <Queue jobs={queue} />}
      {over.length > 0 && <Group title="Ended" id="ended" jobs={over} why />}
    </>
  );
}

function Group(p: { title: string; id: string; jobs: Job[]; why?: boolean }) {
  const last = p.why ? "Why" : "Time left";
  return (
    <Section title={p.title} id={p.id}>
      <Table label={`${p.title} jobs`} heads={["Job", "State", "Step", "", "Loss", "Test error", "Images/s", last,
        "Submitted"]} right={[2, 4, 5, 6]}>
        {p.jobs.map((j) => <Row key={j.name} job={j} why={p.why ?? false} />)}
      </Table>
    </Section>
  );
}

function Row({ job: j, why }: { job: Job; why: boolean }) {
  const e = j.evaluations.at(-1);
  return (
    <tr>
      <th scope="row"><Link to={jobLink(j.name)}>{j.name}</Link>
        {j.priority !== 0 && <small>priority {j.priority}</small>}</th>
      <td><State state={j.state} /></td>
      <td class="n">{whole(j.step)} <span class="of">of {whole(j.steps)}</span></td>
      <td class="bar"><Progress job={j} /></td>
      <td class="n">{loss(j.loss)}</td>
      <td class="n">{e === undefined ? "–" : percent(e.top1_errors, e.images)}</td>
      <td class="n">{figures(j.images_per_second)}</td>
      <td class={why ? "why" : ""}>{why ? j.reason : left(j)}</td>
      <td class="time">{dated(j.submitted)}</td>
    </tr>
  );
}
