// What a model sees and says: the first layer's kernels by step, and test images with their best classes.

import { useEffect, useState } from "preact/hooks";
import { get, jobPath, Refused } from "./api";
import type { Checkpoint, Examples, Exemplar, Job, Kernels } from "./api";
import { columnInk } from "./cells";
import { whole } from "./format";
import { Section } from "./parts";

const picture = (png: string) => `data:image/png;base64,${png}`;

/** What a call answers, or why it does not. */
function useTold<T>(path: string): { value: T | null; said: string } {
  const [told, setTold] = useState<{ value: T | null; said: string }>({ value: null, said: "" });
  useEffect(() => {
    let current = true;
    get<T>(path).then((value) => current && setTold({ value, said: "" }),
      (e) => current && e instanceof Refused && setTold((before) => ({ ...before, said: e.message })));
    return () => {
      current = false;
    };
  }, [path]);
  return told;
}

/** The kernels of both columns after the step of a checkpoint that is chosen; the newest until one is. */
export function KernelsOf({ job: j, checkpoints }: { job: Job; checkpoints: Checkpoint[] }) {
  const [chosen, choose] = useState<number | null>(null);
  const steps = checkpoints.filter((c) => c.bad === "").map((c) => c.step);
  const at = chosen === null ? -1 : steps.indexOf(chosen);
  const place = at < 0 ? steps.length - 1 : at;
  const step = steps[place];
  if (step === undefined) return null;
  return (
    <Section title="First kernels" id="kernels" aside={
      <label class="slider">after step <output>{whole(step)}</output>
        <input type="range" min={0} max={steps.length - 1} step={1} value={place} disabled={steps.length < 2}
          aria-label="Checkpoint" aria-valuetext={`step ${whole(step)}`}
          onInput={(e) => choose(steps[Number(e.currentTarget.value)] ?? null)} /></label>}>
      <Mosaics path={`${jobPath(j.name)}/kernels?step=${step}`} />
    </Section>
  );
}

function Mosaics({ path }: { path: string }) {
  const { value: k, said } = useTold<Kernels>(path);
  return (
    <>
      {said !== "" && <p class="hint" role="status">{said}</p>}
      {k !== null && (
        <div class="mosaics">
          {k.columns.map((c) => (
            <figure key={c.column}>
              <figcaption><i class="dot" style={{ background: `var(${columnInk(c.column)})` }} />column {c.column}
                <small>{c.kernels} kernels of {c.side}×{c.side}</small></figcaption>
              <img class="pixels" src={picture(c.png)} width={c.width} height={c.height}
                alt={`The ${c.kernels} kernels of column ${c.column} after step ${k.step}`} />
            </figure>
          ))}
        </div>
      )}
      {k !== null && <p class="hint">Black is {k.low.toPrecision(3)}, white {k.high.toPrecision(3)}, in all columns.
      </p>}
    </>
  );
}

const shownExamples = 24;

/** What worker examples has found out last. */
export function ExamplesOf({ name }: { name: string }) {
  const { value: all, said } = useTold<Examples>(`${jobPath(name)}/examples`);
  return (
    <Section title="Test images" id="examples" aside={all !== null && <span class="unit">{all.model}</span>}>
      {said !== "" && <p class="empty">{said}</p>}
      {all !== null && <ol class="examples">
        {all.predictions.slice(0, shownExamples).map((p) => <Prediction key={p.sample} of={p} />)}
      </ol>}
      {all !== null && all.similar.some((s) => s.nearest.length > 0) && (
        <>
          <h3>Nearest training images, by the last hidden layer</h3>
          {all.similar.slice(0, shownExamples).map((s) => (
            <p key={s.of.sample} class="nearest"><Image of={s.of} /><span aria-hidden="true">→</span>
              {s.nearest.map((n) => <Image key={n.sample} of={n} />)}</p>
          ))}
        </>
      )}
    </Section>
  );
}

const Image = ({ of: e }: { of: Exemplar }) => (
  <img class="pixels example" src={picture(e.png)} alt={`Image ${e.sample}: ${e.name}`} title={e.name} />
);

function Prediction({ of: p }: { of: Exemplar }) {
  return (
    <li>
      <Image of={p} />
      <div>
        <b>{p.name}</b>
        {(p.best ?? []).map((b) => (
          <span key={b.class} class={b.class === p.label ? "guess right" : "guess"}>
            <i style={{ width: `${100 * b.probability}%` }} /><span>{b.name}</span>
            <span>{(100 * b.probability).toFixed(1)} %</span></span>
        ))}
      </div>
    </li>
  );
}
