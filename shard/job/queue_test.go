package job

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// How a job stands in the queue is read, kept in its bytes, and no part of what it is.
func TestQueue(t *testing.T) {
	plain := made(t, sample)
	for text, want := range map[string]Queue{
		"":                           {},
		"queue: {priority: 5}\n":     {Priority: 5},
		"queue: {priority: -1000}\n": {Priority: -1000},
		"queue: {priority: 1, max_workers: 2, min_workers: 2}\n": {1, 2, 2},
	} {
		j := extended(t, text)
		if diff := cmp.Diff(want, j.Queued()); diff != "" {
			t.Errorf("%q (-want +got):\n%s", text, diff)
		}
		if same := string(j.Encode()) == string(plain.Encode()); same != (text == "") {
			t.Errorf("%q: the same bytes: %v", text, same)
		}
		if j.Identity() != plain.Identity() {
			t.Errorf("%q makes another job of it", text)
		}
	}
}

func TestQueueRefusals(t *testing.T) {
	for queue, want := range map[string]string{
		"{priority: 1001}":                 "queue.priority: 1001; give one between -1000 and 1000",
		"{priority: -1001}":                "queue.priority: -1001; give one",
		"{priority: high}":                 `"high" is no whole number`,
		"{max_workers: -1}":                "queue.max_workers: -1; give how many the job may have",
		"{min_workers: -1}":                "queue.min_workers: -1; give how many the job must have",
		"{min_workers: 9}":                 "queue.min_workers: 9, and the job has only",
		"{min_workers: 2, max_workers: 1}": "queue.min_workers: 2 is more than queue.max_workers: 1",
		"{rank: 3}":                        `unknown key "rank"`,
	} {
		_, err := Parse("job.yaml", []byte(strings.Replace(sample, "seed: 3\n", "seed: 3\nqueue: "+queue+"\n", 1)))
		if !errors.Is(err, ErrJob) || !strings.Contains(err.Error(), want) || strings.ContainsRune(err.Error(), '\n') {
			t.Errorf("queue: %s: %v, want one line with %q", queue, err, want)
		}
	}
}
