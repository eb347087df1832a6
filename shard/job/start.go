package job

import (
	"encoding/hex"
	"regexp"
	"slices"
)

// Start says which weights a job begins with, instead of random ones: to fine-tune a model, or to go on from one that
// was trained elsewhere. Momentum begins at zero.
type Start struct {
	From   string   `yaml:"from"`             // model as safetensors, by checkpoint export or import
	Fresh  []string `yaml:"fresh,omitempty"`  // layers that begin at random all the same, such as the last one
	SHA256 string   `yaml:"sha256,omitempty"` // resolved: of the file
}

var hexDigest = regexp.MustCompile(`^[0-9a-f]{64}$`)

// checkStart checks what a job begins with.
func (j *Job) checkStart() error {
	s := j.Start
	switch {
	case s == nil:
		return nil
	case s.From == "":
		return errorf("start.from: no model; name one, written by: coordinator checkpoint export, or import; or remove start")
	case s.SHA256 != "" && !hexDigest.MatchString(s.SHA256):
		return errorf("start.sha256: %q is no SHA-256; leave it out, it is filled in when the job is submitted", s.SHA256)
	}
	for i, l := range s.Fresh {
		if slices.Contains(s.Fresh[:i], l) {
			return errorf("start.fresh: layer %q twice", l)
		}
	}
	return nil
}

// SetStart fills in what the model file is.
func (j *Job) SetStart(path string, sum [32]byte) {
	s := *j.Start
	s.From, s.SHA256 = path, hex.EncodeToString(sum[:])
	j.Start = &s
}
