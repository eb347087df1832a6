package job

import (
	"crypto/sha256"
	"fmt"

	yaml "go.yaml.in/yaml/v4"

	"colonnade/shard"
)

// Resolve fills in what a job's names stand for: the network's text and what the packs' headers say. The job is then
// complete: Encode, Plan and the rest work on it alone.
func (j *Job) Resolve(networkText string, train, test *Pack) error {
	r := *j
	r.NetworkText, r.Train, r.Test = networkText, train, test
	if r.Classes == 0 {
		r.Classes = train.Classes
	}
	if err := r.checkResolved(); err != nil {
		return err
	}
	*j = r
	return nil
}

func (j *Job) checkResolved() error {
	switch {
	case j.NetworkText == "" || j.Train == nil:
		return errorf("the job is not resolved: network text or training pack is missing")
	case j.Train.Images < 1 || j.Train.Images > maxSteps || j.Train.Channels < 1 || j.Train.Height < 1 ||
		j.Train.Width < 1:
		return errorf("data.train: the pack has %d images of %dx%dx%d; make another", j.Train.Images, j.Train.Channels,
			j.Train.Height, j.Train.Width)
	case j.Classes < j.Train.Classes:
		return errorf("classes: %d, but the training pack has %d; leave classes out", j.Classes, j.Train.Classes)
	case j.Recipe.Batch > j.Train.Images:
		return errorf("recipe.batch: %d, but the training pack has only %d images; use a smaller batch",
			j.Recipe.Batch, j.Train.Images)
	case j.Recipe.Epochs > maxSteps/j.StepsPerEpoch():
		return errorf("recipe.epochs: %d of %d steps each are more than a job can have; give fewer", j.Recipe.Epochs,
			j.StepsPerEpoch())
	}
	if t := j.Test; t != nil {
		if t.Images < 1 || t.Channels != j.Train.Channels || t.Height != j.Train.Height || t.Width != j.Train.Width {
			return errorf("data.test: %d images of %dx%dx%d do not go with training images of %dx%dx%d; pack both the same way",
				t.Images, t.Channels, t.Height, t.Width, j.Train.Channels, j.Train.Height, j.Train.Width)
		}
		if t.Classes > j.Classes {
			return errorf("data.test: the pack has %d classes, the job %d; pack both with the same classes",
				t.Classes, j.Classes)
		}
	}
	if j.Start != nil && j.Start.SHA256 == "" {
		return errorf("start.from: the model was not looked at; submit the job again with this program")
	}
	p, err := j.Plan()
	if err != nil {
		return err
	}
	if err := j.checkCourse(p); err != nil {
		return err
	}
	return j.checkColourOf(p.Network)
}

// Plan splits the job's network into its columns.
func (j *Job) Plan() (*shard.Plan, error) {
	n, err := shard.Parse(j.Network, []byte(j.NetworkText))
	if err != nil {
		return nil, fmt.Errorf("job %s: %w", j.Name, err)
	}
	if n, err = n.Resolve(j.Train.Channels, j.Classes); err != nil {
		return nil, fmt.Errorf("job %s: %w", j.Name, err)
	}
	p, err := shard.NewPlan(j.start(n), j.Columns)
	if err != nil {
		return nil, fmt.Errorf("job %s: %w", j.Name, err)
	}
	return p, nil
}

// encodingVersion is that of the canonical bytes.
const encodingVersion = 1

// header comes before the YAML of a canonical job.
var header = fmt.Sprintf("# colonnade job %d\n", encodingVersion)

// Encode gives the job's canonical bytes: equal jobs give equal bytes.
func (j *Job) Encode() []byte {
	b, err := yaml.Marshal(j)
	if err != nil {
		panic(fmt.Sprintf("job: encode: %v", err)) // plain fields: cannot fail
	}
	return append([]byte(header), b...)
}

// Decode reads canonical bytes.
func Decode(b []byte) (*Job, error) {
	if len(b) < len(header) || string(b[:len(header)]) != header {
		return nil, errorf("not a job of encoding version %d; submit it again with this program", encodingVersion)
	}
	j := &Job{}
	if err := decode("job", b, j); err != nil {
		return nil, err
	}
	if err := j.check(); err != nil {
		return nil, err
	}
	if err := j.checkResolved(); err != nil {
		return nil, err
	}
	return j, nil
}

// Identity is the SHA-256 of everything the result is a function of: the job without its name, without the paths of
// its packs (their identities count) and without what only decides when state is written down or looked at, or when the
// job has workers.
func (j *Job) Identity() [32]byte {
	c := *j
	c.Name, c.Network, c.Data = "", "", Data{}
	train := *j.Train
	train.Path = ""
	c.Train = &train
	if j.Test != nil {
		test := *j.Test
		test.Path = ""
		c.Test = &test
	}
	c.Checkpoint, c.Buddy, c.Queue, c.Recipe.Preset = Checkpoint{}, nil, nil, ""
	if j.Start != nil {
		start := *j.Start
		start.From = "" // its sum counts
		c.Start = &start
	}
	return sha256.Sum256(c.Encode())
}

// StepsPerEpoch is how many whole batches the training pack has. What is left over at an epoch's end is not trained on
// in that epoch; the next epoch's order is another.
func (j *Job) StepsPerEpoch() int { return j.Train.Images / j.Recipe.Batch }

// Slice is how many images of each batch one replica takes.
func (j *Job) Slice() int { return j.Recipe.Batch / max(j.Replicas, 1) }

// Steps is the number of steps of the whole job.
func (j *Job) Steps() uint64 {
	if j.Recipe.Steps > 0 {
		return uint64(j.Recipe.Steps)
	}
	return uint64(j.Recipe.Epochs) * uint64(j.StepsPerEpoch())
}

// Epochs is the number of epochs begun by the last step.
func (j *Job) Epochs() uint64 {
	per := uint64(j.StepsPerEpoch())
	return (j.Steps() + per - 1) / per
}

// CheckpointAfter says whether state is kept after so many finished steps. The end always is.
func (j *Job) CheckpointAfter(step uint64) bool {
	every := uint64(j.Checkpoint.Every)
	if every == 0 {
		every = uint64(j.StepsPerEpoch())
	}
	return step == j.Steps() || step > 0 && step%every == 0
}

// EvaluateAfter says whether the test set is run after so many finished steps.
func (j *Job) EvaluateAfter(step uint64) bool {
	if j.Test == nil || step == 0 {
		return false
	}
	every := uint64(j.Evaluate.Every) * uint64(j.StepsPerEpoch())
	return step == j.Steps() || every > 0 && step%every == 0
}

// defaultCopies is how often cells' states are copied to other machines, in steps, if the job does not say.
const defaultCopies = 10

// CopyEvery is after how many steps each cell's state goes to another machine; 0: it never does.
func (j *Job) CopyEvery() uint64 {
	if j.Buddy == nil {
		return defaultCopies
	}
	return uint64(j.Buddy.Every)
}
