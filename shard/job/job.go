// Package job is the job file: everything a result is a function of, and how and when the job gets there. Parse reads
// what a user writes, Resolve adds the network's text and the datasets' identities, and Encode gives the canonical
// bytes that are committed and sent to workers. Pure like the rest of shard.
package job

// Job is one training job. Fields are what the YAML file has, one to one, but for those marked resolved.
type Job struct {
	Name       string     `yaml:"job"`     // letters, digits, '-', '_', '.'; at most 63
	Network    string     `yaml:"network"` // name of an embedded network, or path of a file (relative to the job file)
	Classes    int        `yaml:"classes"` // 0: as many as the training pack has
	Columns    int        `yaml:"columns"`
	Replicas   int        `yaml:"replicas"` // each takes its slice of every batch; gradients are summed over them
	Seed       uint64     `yaml:"seed"`
	Winograd   Winograd   `yaml:"winograd,omitempty"` // on or off: whether convolutions may go by Winograd's algorithm
	Data       Data       `yaml:"data"`
	Recipe     Recipe     `yaml:"recipe"`
	Augment    Augment    `yaml:"augment"`
	Evaluate   Evaluate   `yaml:"evaluate"`
	Checkpoint Checkpoint `yaml:"checkpoint"`
	Buddy      *Buddy     `yaml:"buddy,omitempty"` // nil: the default
	Start      *Start     `yaml:"start,omitempty"` // nil: random weights
	Guard      *Guard     `yaml:"guard,omitempty"` // nil: the default
	Queue      *Queue     `yaml:"queue,omitempty"` // nil: the default

	NetworkText string `yaml:"network_text,omitempty"` // resolved: the network file
	Train       *Pack  `yaml:"train_pack,omitempty"`   // resolved
	Test        *Pack  `yaml:"test_pack,omitempty"`    // resolved
}

// Data names the packs. Paths are relative to the job file.
type Data struct {
	Train string `yaml:"train"`
	Test  string `yaml:"test"` // empty: no evaluation
}

// Pack is what a job must know of a dataset.
type Pack struct {
	Path     string `yaml:"path"` // absolute
	ID       string `yaml:"id"`   // hex SHA-256 identity
	Images   int    `yaml:"images"`
	Channels int    `yaml:"channels"`
	Height   int    `yaml:"height"`
	Width    int    `yaml:"width"`
	Classes  int    `yaml:"classes"`
}

// Recipe is how weights are trained: SGD with momentum and decay (paper, section 5). The keys from Preset on came
// later: a job without them has the bytes it always had. See recipe.go for what they are, course.go for what they do.
type Recipe struct {
	Batch    int     `yaml:"batch"`  // images a step, over all replicas
	Epochs   int     `yaml:"epochs"` // either Epochs or Steps
	Steps    int     `yaml:"steps"`
	Rate     float64 `yaml:"rate"`
	Momentum float64 `yaml:"momentum"`
	Decay    float64 `yaml:"decay"`
	Schedule []Drop  `yaml:"schedule"` // one of Schedule, Plateau and Dexp

	Preset    string   `yaml:"preset,omitempty"` // where the values came from: they are all in the job
	Plateau   *Plateau `yaml:"plateau,omitempty"`
	Dexp      *Dexp    `yaml:"dexp,omitempty"`
	Biases    *Biases  `yaml:"biases,omitempty"`
	Layers    []Layer  `yaml:"layers,omitempty"` // later entries go before earlier ones
	ColourOff int      `yaml:"colour_off,omitempty"`
}

// Drop sets another rate from the start of an epoch on (counted from 1, so the first possible drop is at 2), or from a
// step on.
type Drop struct {
	Epoch int     `yaml:"epoch"`
	Step  int     `yaml:"step"`
	Rate  float64 `yaml:"rate"`
}

// Augment is how training images vary. Test images are always the centre, unflipped.
type Augment struct {
	Crop   string  `yaml:"crop"`             // centre, random
	Pad    int     `yaml:"pad"`              // pixels of mean colour around the image that a random crop may reach into
	Flip   bool    `yaml:"flip"`             // reflect half of the images
	Scale  float64 `yaml:"scale"`            // what pixels (0..255, mean subtracted) are multiplied by
	Share  int     `yaml:"share,omitempty"`  // consecutive images of an epoch that have one crop and flip; 0: each its own
	Mean   string  `yaml:"mean,omitempty"`   // image (the default), centre; see colour.go
	Colour *Colour `yaml:"colour,omitempty"` // nil: no noise
}

// Evaluate says when the test set is run.
type Evaluate struct {
	Every int `yaml:"every"`           // epochs; 0: only at the end
	Views int `yaml:"views,omitempty"` // 10: averaged (paper, section 4.1); 0: the centre
}

// Checkpoint says when state is kept.
type Checkpoint struct {
	Every int `yaml:"every"` // steps; 0: at the end of every epoch
	Keep  int `yaml:"keep"`  // newest checkpoints kept, at least 1
}

// Buddy says how often each cell's state goes to a worker on another machine, in the background.
type Buddy struct {
	Every int `yaml:"every"` // steps; 0: never
}
