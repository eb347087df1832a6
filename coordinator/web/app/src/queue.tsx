// The queue for workers: who is next, and why each waits.

import { jobPath } from "./api";
import type { Job } from "./api";
import { dated, whole } from "./format";
import { Action, jobLink, Link, Progress, Section, State, Table } from "./parts";

/** What a field says, if it says anything: what is left out stays as it is. */
function given(form: FormData, name: string): Record<string, number> {
  const text = String(form.get(name) ?? "").trim();
  return text === "" ? {} : { [name]: Number(text) };
}

/** Changes how a job stands in the queue. */
export function QueueAction({ job: j }: { job: Job }) {
  const field = (name: "priority" | "max_workers" | "min_workers", words: string, least: number, most?: number) => (
    <label>{words}
      <input name={name} type="number" step={1} min={least} max={most} defaultValue={String(j[name])} /></label>
  );
  return (
    <Action path={`${jobPath(j.name)}/queue`} verb="Change" title={`${j.name} in the queue`}
      label={`Change how ${j.name} stands in the queue …`}
      text="A higher priority goes first, and has jobs of a lower one make way, after a checkpoint."
      body={(f) => ({ ...given(f, "priority"), ...given(f, "max_workers"), ...given(f, "min_workers") })} fields={
        <>
          {field("priority", "Priority, -1000 to 1000; usual is 0", -1000, 1000)}
          {field("max_workers", "Workers at most; 0: as many as it has cells", 0)}
          {field("min_workers", "Workers without which it does not begin; 0: one is enough", 0)}
        </>}>Queue …</Action>
  );
}

/** How many workers a job may have. */
export function workersOf(j: Job): string {
  const most = j.max_workers === 0 ? "" : ` to ${j.max_workers}`;
  return `${Math.max(j.min_workers, 1)}${most === "" ? " or more" : most}`;
}

/** How often a job has made way, of one that has. */
export const madeWay = (j: Job) => j.preemptions === 1 ? `has made way once, for ${j.preempted_by}`
  : `has made way ${whole(j.preemptions)} times, the last time for ${j.preempted_by}`;

const last = Number.MAX_SAFE_INTEGER;

export function Queue({ jobs }: { jobs: Job[] }) {
  const inOrder = [...jobs].sort((a, b) => (a.place || last) - (b.place || last));
  return (
    <Section title="Waiting" id="waiting">
      <Table label="The queue, who is next first" heads={["Place", "Job", "State", "Priority", "Workers", "Step", "",
        "Why", "Submitted", ""]} right={[0, 3, 5]}>
        {inOrder.map((j) => (
          <tr key={j.name}>
            <td class="n">{j.place === 0 ? "–" : j.place}</td>
            <th scope="row"><Link to={jobLink(j.name)}>{j.name}</Link>
              <small class="narrow" aria-hidden="true">{j.reason}</small></th>
            <td><State state={j.state} /></td>
            <td class="n">{j.priority}</td>
            <td class="time">{workersOf(j)}</td>
            <td class="n">{whole(j.step)} <span class="of">of {whole(j.steps)}</span></td>
            <td class="bar"><Progress job={j} /></td>
            <td class="why">{j.reason}{j.preemptions > 0 && <small>{madeWay(j)}</small>}</td>
            <td class="time">{dated(j.submitted)}</td>
            <td><span class="row"><QueueAction job={j} /></span></td>
          </tr>
        ))}
      </Table>
    </Section>
  );
}
