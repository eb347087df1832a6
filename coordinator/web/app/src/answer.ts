// Answers that no stream brings.

import { useEffect, useState } from "preact/hooks";
import { get } from "./api";

/** Asked for once, and again when it may have changed. */
export function useAnswer<T>(path: string, again: unknown = 0): T | null {
  const [value, setValue] = useState<T | null>(null);
  useEffect(() => {
    let current = true;
    get<T>(path).then((v) => current && setValue(v), () => undefined);
    return () => {
      current = false;
    };
  }, [path, again]);
  return value;
}
