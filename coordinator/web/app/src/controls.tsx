// What can be done to a job and to its checkpoints. Everything asks first.

import { useState } from "preact/hooks";
import { useAnswer } from "./answer";
import { jobPath, save } from "./api";
import type { Checkpoint, Job } from "./api";
import { bytes, dated, whole } from "./format";
import { Action, go, jobLink, Section, Table } from "./parts";
import { QueueAction } from "./queue";
import { refetch } from "./state";

const rests = ["done", "stopped", "failed", "paused"];

export function Controls({ job: j }: { job: Job }) {
  return (
    <>
      <Course job={j} />
      {j.state !== "done" && <QueueAction job={j} />}
      {j.committed_step > 0 && rests.includes(j.state) && <Fork job={j} step={j.committed_step} />}
      {(rests.includes(j.state) || j.state === "queued") && (
        <Action path={`${jobPath(j.name)}/delete`} body={{}} verb="Delete" grave title={`Delete ${j.name}?`}
          text="The job is forgotten, and its checkpoints are deleted. This cannot be undone." then={() => go("/")}>
          Delete …</Action>)}
    </>
  );
}

/** Going on and stopping. */
function Course({ job: j }: { job: Job }) {
  const stop = `${jobPath(j.name)}/stop`;
  const resume = `${jobPath(j.name)}/resume`;
  const vetoed = j.vetoes.some((v) => v.outcome === "paused");
  const resumes = (text: string) => (
    <Action path={resume} body={{}} verb="Resume" title={`Resume ${j.name}?`} text={text}>Resume …</Action>
  );
  switch (j.state) {
    case "done":
      return null;
    case "stopped":
    case "failed":
      return resumes(`It goes on from step ${whole(j.committed_step)}, its newest usable checkpoint.`);
    case "paused":
      if (!vetoed) return resumes(`It goes on from step ${whole(j.committed_step)}.`);
      return (
        <>
          <Action path={resume} body={{ skip_batch: true }} verb="Go on without the batch"
            title="Go on without the batch?" text={`${j.reason}. The step changes nothing then.`}>Skip batch …
          </Action>
          <Action path={resume} body={{ accept_batch: true }} verb="Train on the batch" grave
            title="Train on the batch all the same?" text={j.reason}>Accept batch …</Action>
          {resumes("It goes on, and pauses again if the step is found wrong again.")}
        </>
      );
  }
  return (
    <>
      {j.state === "running" && (
        <>
          <Action path={`${jobPath(j.name)}/checkpoint`} body={{}} verb="Write one" title="Write a checkpoint now?"
            text="Its cells stop behind their step, write one, and go on from memory: about a second is lost.">
            Checkpoint now …</Action>
          <Action path={`${jobPath(j.name)}/pause`} body={{}} verb="Pause" title={`Pause ${j.name}?`}
            text="Its cells finish their step and write a checkpoint; its workers are free until then.">Pause …
          </Action>
        </>)}
      {j.state !== "stopping" && <Action path={stop} body={{}} verb="Stop" title={`Stop ${j.name}?`}
        text="Its cells finish their step, write a checkpoint and stop. Nothing is lost.">Stop …</Action>}
      <Action path={stop} body={{ now: true }} verb="Stop at once" grave title={`Stop ${j.name} at once?`}
        text={`What it did since step ${whole(j.committed_step)}, its newest checkpoint, is lost.`}>Stop at once …
      </Action>
    </>
  );
}

/** The settings of a form, a line each. */
const linesOf = (form: FormData, name: string) => String(form.get(name) ?? "").split("\n").map((l) => l.trim())
  .filter((l) => l !== "");

const nameOf = (form: FormData) => String(form.get("name") ?? "").trim();

function Fork({ job: j, step, label }: { job: Job; step: number; label?: string | undefined }) {
  return (
    <Action path={`${jobPath(j.name)}/checkpoints/${step}/fork`} verb="Fork" title={`Fork ${j.name}?`} label={label}
      body={(f) => ({ name: nameOf(f), set: linesOf(f, "set") })} then={(f) => go(jobLink(nameOf(f)))}
      text={<>A new job goes on from the checkpoint of step {whole(step)}, with what you change here.</>} fields={
        <>
          <label>Name of the new job
            <input name="name" required pattern="[a-zA-Z0-9][a-zA-Z0-9._\-]{0,62}" defaultValue={`${j.name}-fork`}
              autoComplete="off" /></label>
          <label><span>Changes, a line each: <code>key=value</code></span>
            <textarea name="set" rows={4} spellcheck={false} placeholder={"recipe.rate=0.001\nrecipe.steps=20000"} />
          </label>
        </>}>Fork …</Action>
  );
}

/** A job's checkpoints, by step. */
export const useCheckpoints = (j: Job) => useAnswer<{ checkpoints: Checkpoint[] }>(
  `${jobPath(j.name)}/checkpoints`, `${refetch.value} ${j.committed_step}`)?.checkpoints ?? [];

export function Checkpoints({ job: j, all }: { job: Job; all: Checkpoint[] }) {
  const list = [...all].reverse();
  return (
    <Section title="Checkpoints" id="checkpoints">
      {list.length === 0 ? <p class="empty">None yet.</p> : (
        <Table label="Checkpoints" heads={["Step", "State", "Size", "Files", "Generation", "Committed", "Digest",
          "What to do with it"]} right={[0, 2, 3, 4]}>
          {list.map((c) => (
            <tr key={c.step}>
              <th scope="row" class="n">{whole(c.step)}</th>
              <td>{c.bad === "" ? <span class="state done">usable</span>
                : <span class="state failed" title={c.bad}>bad: {c.bad}</span>}
                {c.pinned && <small>pinned</small>}</td>
              <td class="n">{bytes(c.files.reduce((n, f) => n + f.bytes, 0))}</td>
              <td class="n">{c.files.length}</td>
              <td class="n">{c.generation}</td>
              <td class="time">{dated(c.committed)}</td>
              <td><code title={c.digest}>{c.digest.slice(0, 12)}</code></td>
              <td><span class="row">{<RowActions job={j} of={c} />}</span></td>
            </tr>
          ))}
        </Table>
      )}
      <p class="hint">A checkpoint counts when the files of all cells are durable. Their checksums are verified whenever
        they are read; one that is found damaged is said to be bad here, and the one before is used.</p>
    </Section>
  );
}

/** Saves a checkpoint as safetensors. */
function Save({ job: j, step }: { job: Job; step: number }) {
  const [said, setSaid] = useState("");
  const file = `${j.name}-${step}.safetensors`;
  const get = async () => {
    setSaid("…");
    await save(`${jobPath(j.name)}/checkpoints/${step}/safetensors`, file).then(() => setSaid(""),
      (e: Error) => setSaid(e.message));
  };
  return (
    <>
      {said.length > 1 && <span role="alert" class="said">{said}</span>}
      <button type="button" disabled={said === "…"} onClick={get} title={file}
        aria-label={`Save the checkpoint of step ${whole(step)} as safetensors`}>Save</button>
    </>
  );
}

function RowActions({ job: j, of: c }: { job: Job; of: Checkpoint }) {
  const own = `${jobPath(j.name)}/checkpoints/${c.step}`;
  const of = `the checkpoint of step ${whole(c.step)}`;
  return (
    <>
      {c.bad === "" && ["stopped", "failed", "paused"].includes(j.state) && (
        <Action path={`${jobPath(j.name)}/resume`} body={{ step: c.step }} verb="Go on from here" grave
          label={`Restore ${of} …`} title={`Go on from step ${whole(c.step)}?`}
          text="Newer checkpoints of this job are given up.">Restore …</Action>)}
      {c.bad === "" && <Save job={j} step={c.step} />}
      {c.bad === "" && <Fork job={j} step={c.step} label={`Fork ${of} …`} />}
      {c.pinned
        ? <Action path={`${own}/pin`} body={{ undo: true }} verb="Unpin" title={`Unpin ${of}?`}
          label={`Unpin ${of} …`} text="Retention drops it when it is old.">Unpin …</Action>
        : <Action path={`${own}/pin`} body={{}} verb="Pin" title={`Pin ${of}?`} label={`Pin ${of} …`}
          text="Retention keeps it until it is unpinned.">Pin …</Action>}
      <Action path={`${own}/delete`} body={{}} verb="Delete" grave title={`Delete ${of}?`}
        label={`Delete ${of} …`} text="Its files are deleted. This cannot be undone.">Delete …</Action>
    </>
  );
}
