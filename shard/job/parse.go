package job

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"regexp"
	"strings"

	yaml "go.yaml.in/yaml/v4"
)

// ErrJob is wrapped by everything that is wrong with a job.
var ErrJob = errors.New("job")

// jobError is one line: where, what is wrong, what to do.
type jobError struct{ text string }

func (e *jobError) Error() string { return e.text }
func (e *jobError) Unwrap() error { return ErrJob }

func errorf(format string, args ...any) error { return &jobError{fmt.Sprintf(format, args...)} }

// maxFile bounds a job file, a network's text included.
const maxFile = 2 << 20

// Defaults for what a file leaves out.
const (
	defaultColumns  = 2
	defaultMomentum = 0.9
	defaultDecay    = 0.0005
	defaultScale    = 1.0 / 64 // of pixels 0..255 with the mean subtracted: about unit variance
	defaultKeep     = 3
)

// defaults is a job that says nothing.
func defaults() *Job {
	return &Job{Columns: defaultColumns, Replicas: 1,
		Recipe:     Recipe{Momentum: defaultMomentum, Decay: defaultDecay},
		Augment:    Augment{Crop: "centre", Scale: defaultScale},
		Evaluate:   Evaluate{Every: 1},
		Checkpoint: Checkpoint{Keep: defaultKeep}}
}

// Parse reads a job file.
func Parse(file string, text []byte) (*Job, error) {
	j := defaults()
	if err := decode(file, text, j); err != nil {
		return nil, err
	}
	if err := j.fillPreset(file, text); err != nil {
		return nil, err
	}
	if j.Evaluate.Views == 1 { // as if nothing was said
		j.Evaluate.Views = 0
	}
	if j.NetworkText != "" || j.Train != nil || j.Test != nil {
		return nil, errorf("%s: network_text, train_pack and test_pack are filled in when the job is submitted; remove them",
			file)
	}
	if err := j.check(); err != nil {
		return nil, errorf("%s: %v", file, err)
	}
	return j, nil
}

var yamlLine = regexp.MustCompile(`line (\d+)(?:, column \d+)?: ?`)

// decode reads strictly: unknown keys are errors.
func decode(file string, text []byte, into *Job) error {
	if len(text) > maxFile {
		return errorf("%s: larger than %d bytes: not a job file", file, maxFile)
	}
	d := yaml.NewDecoder(bytes.NewReader(text))
	d.KnownFields(true)
	err := d.Decode(into)
	if errors.Is(err, io.EOF) {
		return errorf("%s: the file is empty; see scripts/jobs for examples", file)
	}
	if err != nil {
		where, what := file, err.Error()
		if m := yamlLine.FindStringSubmatchIndex(what); m != nil {
			where, what = file+":"+what[m[2]:m[3]], what[m[1]:]
		}
		what, _, _ = strings.Cut(what, "\n")
		what = plain(what)
		return errorf("%s: %s; see scripts/jobs for the form", where, what)
	}
	var more yaml.Node
	if err := d.Decode(&more); !errors.Is(err, io.EOF) {
		return errorf("%s: more than one YAML document; keep one", file)
	}
	return nil
}

var (
	unknownField = regexp.MustCompile("^field (\\S+) not found in type \\S+")
	wrongType    = regexp.MustCompile("^cannot construct !!\\S+ `(.*?)` into (u?int|float|bool|string)\\S*")
	typeNames    = map[string]string{"int": "whole number", "uint": "positive whole number", "float": "number",
		"bool": "true or false", "string": "text"}
)

// plain says in a user's words what the decoder says in a programmer's.
func plain(what string) string {
	what, _, _ = strings.Cut(what, "; line ") // one at a time
	if m := unknownField.FindStringSubmatch(what); m != nil {
		return fmt.Sprintf("unknown key %q", m[1])
	}
	if m := wrongType.FindStringSubmatch(what); m != nil {
		return fmt.Sprintf("%q is no %s", m[1], typeNames[m[2]])
	}
	return what
}

// jobName is what names a job, and its directories.
var jobName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9._-]{0,62}$`)

// limits that no sensible job reaches; they keep arithmetic within int.
const (
	maxBatch = 1 << 20
	maxSteps = 1 << 40
)

// check says what is wrong with a job by itself.
func (j *Job) check() error {
	r := j.Recipe
	finite := func(v float64) bool { return !math.IsNaN(v) && !math.IsInf(v, 0) }
	switch {
	case !jobName.MatchString(j.Name):
		return errorf("job: %q is no name; use letters, digits, '-', '_' and '.', at most 63, "+
			"beginning with a letter or digit", j.Name)
	case j.Network == "":
		return errorf("network: missing; name one, e.g. network: alexnet-32")
	case j.Classes < 0:
		return errorf("classes: %d; leave it out to take the pack's", j.Classes)
	case j.Columns < 1 || j.Columns > 64:
		return errorf("columns: %d; use 1, 2 or 4", j.Columns)
	case j.Replicas < 1 || j.Replicas > 1024:
		return errorf("replicas: %d; use 1, or as many as share each batch, at most 1024", j.Replicas)
	case j.Data.Train == "":
		return errorf("data.train: missing; name a pack, made with: worker data pack --from SRC --out FILE")
	case r.Batch < 1 || r.Batch > maxBatch:
		return errorf("recipe.batch: %d; it must be between 1 and %d", r.Batch, maxBatch)
	case r.Batch%j.Replicas != 0:
		return errorf("recipe.batch: %d does not divide among %d replicas; use %d", r.Batch, j.Replicas,
			(r.Batch/j.Replicas+1)*j.Replicas)
	case (r.Epochs > 0) == (r.Steps > 0) || r.Epochs < 0 || r.Steps < 0 || r.Steps > maxSteps || r.Epochs > maxSteps:
		return errorf("recipe: epochs %d and steps %d; give one of them, positive", r.Epochs, r.Steps)
	case !(r.Rate > 0) || !finite(r.Rate):
		return errorf("recipe.rate: %g; it must be positive, e.g. 0.01", r.Rate)
	case !(r.Momentum >= 0 && r.Momentum < 1):
		return errorf("recipe.momentum: %g; it must be at least 0 and below 1", r.Momentum)
	case !(r.Decay >= 0) || !finite(r.Decay):
		return errorf("recipe.decay: %g; it must not be negative", r.Decay)
	case j.Augment.Crop != "centre" && j.Augment.Crop != "random":
		return errorf("augment.crop: %q; use centre or random", j.Augment.Crop)
	case j.Augment.Pad < 0 || j.Augment.Pad > 1024:
		return errorf("augment.pad: %d; it must be between 0 and 1024", j.Augment.Pad)
	case !(j.Augment.Scale > 0) || !finite(j.Augment.Scale):
		return errorf("augment.scale: %g; it must be positive", j.Augment.Scale)
	case j.Evaluate.Views != 0 && j.Evaluate.Views != 10:
		return errorf("evaluate.views: %d; use 1, the centre, or 10, the paper's", j.Evaluate.Views)
	case j.Augment.checkColour() != nil:
		return j.Augment.checkColour()
	case j.Evaluate.Every < 0:
		return errorf("evaluate.every: %d; give epochs, or 0 for the end only", j.Evaluate.Every)
	case j.Checkpoint.Every < 0:
		return errorf("checkpoint.every: %d; give steps, or 0 for the end of every epoch", j.Checkpoint.Every)
	case j.Buddy != nil && j.Buddy.Every < 0:
		return errorf("buddy.every: %d; give steps, or 0 for no copies on other machines", j.Buddy.Every)
	case j.Checkpoint.Keep < 1:
		return errorf("checkpoint.keep: %d; keep at least 1", j.Checkpoint.Keep)
	}
	if err := j.checkStart(); err != nil {
		return err
	}
	if err := j.Guard.check(); err != nil {
		return err
	}
	if err := j.Queue.Check(j.Columns * j.Replicas); err != nil {
		return err
	}
	return j.checkRecipe()
}
