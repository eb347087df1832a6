package job

// Queue says how the job stands in the queue for workers. It reaches no result: the bits are the same whoever goes
// first, and however often the job makes way for another one. Zero values stand for the defaults.
type Queue struct {
	Priority   int `yaml:"priority,omitempty"`    // higher goes first, and may take workers from lower ones
	MaxWorkers int `yaml:"max_workers,omitempty"` // that it has at a time; 0: as many as it has cells
	MinWorkers int `yaml:"min_workers,omitempty"` // without which it does not begin; 0: one is enough
}

// MaxPriority bounds priorities, both ways.
const MaxPriority = 1000

// maxWorkers bounds quotas: no job has as many cells.
const maxWorkers = 1 << 16

// Check says what is wrong with a job's place in the queue, for a job of so many cells.
func (q *Queue) Check(cells int) error {
	if q == nil {
		return nil
	}
	switch {
	case q.Priority < -MaxPriority || q.Priority > MaxPriority:
		return errorf("queue.priority: %d; give one between %d and %d", q.Priority, -MaxPriority, MaxPriority)
	case q.MaxWorkers < 0 || q.MaxWorkers > maxWorkers:
		return errorf("queue.max_workers: %d; give how many the job may have, at most %d, or 0 for as many as it has cells",
			q.MaxWorkers, maxWorkers)
	case q.MinWorkers < 0:
		return errorf("queue.min_workers: %d; give how many the job must have, or 0 if one is enough", q.MinWorkers)
	case q.MinWorkers > cells:
		return errorf("queue.min_workers: %d, and the job has only %d cells, one a worker at most; give at most %d",
			q.MinWorkers, cells, cells)
	case q.MaxWorkers > 0 && q.MinWorkers > q.MaxWorkers:
		return errorf("queue.min_workers: %d is more than queue.max_workers: %d; raise the one or lower the other",
			q.MinWorkers, q.MaxWorkers)
	}
	return nil
}

// Queued is how the job stands in the queue, defaults filled in.
func (j *Job) Queued() Queue {
	if j.Queue == nil {
		return Queue{}
	}
	return *j.Queue
}
